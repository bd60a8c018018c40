// An access token by plain HTTP, and a way to have it sent by programs that can't sign in.
import { createHash, randomBytes } from "node:crypto";
import http from "node:http";
import { Browser } from "./browser.mjs";

const REDIRECT = "http://127.0.0.1:53684/callback";

export async function getToken({ origin, username, password, resource }) {
  const register = await fetch(`${origin}/.idp/register`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ client_name: "plain", redirect_uris: [REDIRECT], token_endpoint_auth_method: "none" }),
  });
  const { client_id } = await register.json();
  const verifier = randomBytes(32).toString("base64url");
  const url = new URL(`${origin}/.idp/auth`);
  const challenge = createHash("sha256").update(verifier).digest("base64url");
  url.search = new URLSearchParams({ response_type: "code", client_id, redirect_uri: REDIRECT, code_challenge: challenge, code_challenge_method: "S256", ...(resource ? { resource } : {}) });
  const back = new URL(await new Browser().authorize(url, { username, password }));
  const body = new URLSearchParams({ grant_type: "authorization_code", code: back.searchParams.get("code"), client_id, redirect_uri: REDIRECT, code_verifier: verifier });
  const { access_token } = await (await fetch(`${origin}/.idp/token`, { method: "POST", body })).json();
  return access_token;
}

// Passes everything on as it is, with the token added. Its own host becomes the proxy's; a hostile one stays.
export function startBearer({ port, origin, token }) {
  const target = new URL(origin);
  const isLocal = (host) => /^(localhost|127\.0\.0\.1)(:\d+)?$/.test(host ?? "");
  const agent = new http.Agent({ keepAlive: true });
  const server = http.createServer((request, response) => {
    const headers = { ...request.headers, authorization: `Bearer ${token}` };
    if (isLocal(headers.host)) headers.host = target.host;
    if (headers.origin && isLocal(headers.origin.replace(/^https?:\/\//, ""))) headers.origin = target.origin;
    const passed = http.request({ hostname: "127.0.0.1", port: target.port, method: request.method, path: request.url, headers, agent }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
      answer.on("error", () => response.destroy());
    });
    passed.on("error", () => response.destroy());
    request.pipe(passed);
    response.on("close", () => passed.destroy());
  });
  return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve({ port, stop: () => (server.close(), server.closeAllConnections(), agent.destroy()) })));
}
