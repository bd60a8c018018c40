// An MCP server behind the authorization server that comes with the TypeScript SDK, as its users put it together; for doctor to look at.
//   node reference_server.mjs PORT
import { randomUUID } from "node:crypto";
import express from "express";
import { InvalidGrantError, InvalidTokenError } from "@modelcontextprotocol/sdk/server/auth/errors.js";
import { requireBearerAuth } from "@modelcontextprotocol/sdk/server/auth/middleware/bearerAuth.js";
import { mcpAuthRouter } from "@modelcontextprotocol/sdk/server/auth/router.js";

const port = Number(process.argv[2]);
const base = new URL(`http://localhost:${port}`);
const clients = new Map();

// Nobody gets further than the page.
const provider = {
  clientsStore: {
    getClient: (id) => clients.get(id),
    registerClient: (client) => {
      const full = { ...client, client_id: randomUUID(), client_id_issued_at: Math.floor(Date.now() / 1000) };
      clients.set(full.client_id, full);
      return full;
    },
  },
  authorize: async (_client, _parameters, response) => void response.send("<!doctype html><title>Sign in</title><h1>Sign in</h1>"),
  challengeForAuthorizationCode: async () => {
    throw new InvalidGrantError("there is no such code");
  },
  exchangeAuthorizationCode: async () => {
    throw new InvalidGrantError("there is no such code");
  },
  exchangeRefreshToken: async () => {
    throw new InvalidGrantError("there is no such token");
  },
  verifyAccessToken: async () => {
    throw new InvalidTokenError("there is no such token");
  },
};

const off = { rateLimit: false };
const app = express();
app.use(mcpAuthRouter({ provider, issuerUrl: base, resourceServerUrl: new URL("/mcp", base), authorizationOptions: off, clientRegistrationOptions: off, tokenOptions: off, revocationOptions: off }));
const resourceMetadataUrl = new URL("/.well-known/oauth-protected-resource/mcp", base).href;
app.all("/mcp", requireBearerAuth({ verifier: provider, resourceMetadataUrl }), (_request, response) => void response.sendStatus(500));
app.listen(port, "127.0.0.1", () => console.log("ready"));
