// oidc-provider as an issuer of assertions: node issuer.mjs PORT. POST /sign with {header, claims} signs a JWT with one of its
// keys; its token endpoint gives the client "workload" tokens of its own.
import { generateKeyPairSync, randomBytes, randomUUID } from "node:crypto";
import { CompactSign, importJWK } from "jose";
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const keys = [
  ["RS256", generateKeyPairSync("rsa", { modulusLength: 2048 })],
  ["ES256", generateKeyPairSync("ec", { namedCurve: "P-256" })],
  ["EdDSA", generateKeyPairSync("ed25519")],
].map(([alg, { privateKey }]) => ({ ...privateKey.export({ format: "jwk" }), use: "sig", alg, kid: `${alg}-${port}` }));

const provider = new Provider(issuer, {
  clients: [{ client_id: "workload", client_secret: "workload-secret", redirect_uris: [], response_types: [], grant_types: ["client_credentials"] }],
  jwks: { keys },
  cookies: { keys: [randomBytes(16).toString("hex")] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: async (ctx, resource) => ({ scope: "mcp", audience: resource, accessTokenTTL: 300, accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } }),
    },
  },
  formats: {
    customizers: {
      jwt: async (ctx, token, jwt) => {
        jwt.header = { typ: "JWT" };
        jwt.payload.sub = "spiffe://example.org/ns/default/sa/agent";
      },
    },
  },
});

provider.use(async (ctx, next) => {
  if (ctx.path !== "/sign") return next();
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  const { header, claims } = JSON.parse(Buffer.concat(chunks));
  const key = keys.find(({ alg }) => alg === header.alg);
  const now = Math.floor(Date.now() / 1000);
  const full = { iss: issuer, iat: now, exp: now + 300, jti: randomUUID(), ...claims };
  ctx.body = await new CompactSign(Buffer.from(JSON.stringify(full))).setProtectedHeader({ kid: key.kid, ...header }).sign(await importJWK(key, key.alg));
});
provider.listen(port, "127.0.0.1");
