// The TypeScript SDK through the whole flow, knowing nothing but the URL.
import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { UnauthorizedError, refreshAuthorization } from "@modelcontextprotocol/sdk/client/auth.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { Browser } from "./browser.mjs";

const REDIRECT = "http://127.0.0.1:53682/callback";

// What an application remembers between sessions.
class Provider {
  secrets = new Set();
  browser = new Browser();
  signIns = 0;
  constructor(credentials, clientMetadataUrl) {
    this.credentials = credentials;
    this.clientMetadataUrl = clientMetadataUrl;
  }
  get redirectUrl() {
    return REDIRECT;
  }
  get clientMetadata() {
    return { client_name: "TypeScript SDK", redirect_uris: [REDIRECT], grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], token_endpoint_auth_method: "none" };
  }
  state() {
    return (this.sentState = crypto.randomUUID());
  }
  clientInformation() {
    return this.information;
  }
  saveClientInformation(information) {
    this.information = information;
  }
  tokens() {
    return this.kept;
  }
  saveTokens(tokens) {
    this.kept = tokens;
    for (const name of ["access_token", "refresh_token"]) this.secrets.add(tokens[name]);
  }
  saveCodeVerifier(verifier) {
    this.secrets.add((this.verifier = verifier));
  }
  codeVerifier() {
    return this.verifier;
  }
  invalidateCredentials(what) {
    if (what !== "verifier") this.kept = undefined;
    if (what === "all" || what === "client") this.information = undefined;
  }
  saveDiscoveryState(state) {
    this.discovery = state;
  }
  discoveryState() {
    return this.discovery;
  }
  async redirectToAuthorization(url) {
    this.signIns++;
    assert.equal(url.searchParams.get("code_challenge_method"), "S256");
    assert.ok(url.searchParams.get("resource").startsWith(url.origin));
    const back = new URL(await this.browser.authorize(url, this.credentials));
    assert.equal(back.searchParams.get("state"), this.sentState);
    assert.equal(back.searchParams.get("iss"), url.origin);
    this.secrets.add((this.code = back.searchParams.get("code")));
  }
}

export async function typescriptFlow({ url, sse, username, password, identity, tools, onSecrets, clientMetadataUrl }) {
  const provider = new Provider(identity ?? { username, password }, clientMetadataUrl);
  const transport = () => {
    const options = { authProvider: provider };
    return sse ? new SSEClientTransport(new URL(url), options) : new StreamableHTTPClientTransport(new URL(url), options);
  };
  const first = transport();
  const refusal = await new Client({ name: "e2e", version: "1" }).connect(first).then(() => new Error("it connected without a sign-in"), (error) => error);
  if (!(refusal instanceof UnauthorizedError)) throw refusal;
  await first.finishAuth(provider.code);

  const client = new Client({ name: "e2e", version: "1" }, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { name: "Ada" } }));
  await client.connect(transport());
  const listed = (await client.listTools()).tools.map((tool) => tool.name);
  for (const name of [tools.echo, tools.slow, tools.ask].filter(Boolean)) assert.ok(listed.includes(name), `${name} in ${listed}`);
  const echoed = await client.callTool({ name: tools.echo, arguments: tools.echoArguments });
  assert.ok(echoed.content[0].text.includes(tools.answer ?? "hello"), echoed.content[0].text);

  if (tools.slow) {
    const progress = [];
    const slow = await client.callTool({ name: tools.slow, arguments: tools.slowArguments }, undefined, { onprogress: (p) => progress.push({ ...p, at: Date.now() }) });
    assert.ok(slow.content.length > 0);
    assert.ok(progress.length >= 2, `progress came ${progress.length} times`);
    assert.ok(progress.at(-1).at > progress[0].at, "progress comes as it is made, not all at the end");
  }
  if (tools.ask) assert.equal((await client.callTool({ name: tools.ask })).content[0].text, "Hello, Ada!");

  // An access token that has run out is replaced unseen.
  const before = provider.kept;
  provider.kept = { ...before, access_token: "expired" };
  await client.listTools();
  assert.notEqual(provider.kept.access_token, "expired");
  assert.notEqual(provider.kept.refresh_token, before.refresh_token);
  assert.equal(provider.signIns, 1);

  // Two refreshes at once with one token, and one whose answer was lost: all get the same successor.
  const { authorizationServerUrl, authorizationServerMetadata } = provider.discovery;
  const refresh = (refreshToken) =>
    refreshAuthorization(authorizationServerUrl, { metadata: authorizationServerMetadata, clientInformation: provider.information, refreshToken, resource: new URL(url) });
  const spent = provider.kept.refresh_token;
  const [a, b] = await Promise.all([refresh(spent), refresh(spent)]);
  const late = await refresh(spent);
  assert.equal(a.refresh_token, b.refresh_token);
  assert.equal(a.refresh_token, late.refresh_token);
  for (const tokens of [a, b, late]) provider.saveTokens({ ...provider.kept, ...tokens });
  await client.listTools();

  // Signing out of the browser leaves the application connected.
  const page = await (await provider.browser.fetch(new URL("/.auth/login", url))).text();
  const form = /name="form" value="([^"]+)"/.exec(page)[1];
  const out = await provider.browser.fetch(new URL("/.auth/logout", url), { method: "POST", form: { form } });
  assert.match(await out.text(), /You are signed out/);
  assert.match(await (await provider.browser.fetch(new URL("/.auth/login", url))).text(), identity ? /Signing in with/ : /type="password"/);
  await client.listTools();

  // Giving the authorization back ends it.
  const body = new URLSearchParams({ token: provider.kept.refresh_token, client_id: provider.information.client_id });
  assert.equal((await fetch(authorizationServerMetadata.revocation_endpoint, { method: "POST", body })).status, 200);
  await client.close();
  const anew = transport();
  await assert.rejects(new Client({ name: "e2e", version: "1" }).connect(anew), /Unauthorized/);
  assert.equal(provider.signIns, 2, "only now is the user asked again");

  for (const value of provider.browser.cookies.values()) provider.secrets.add(value);
  onSecrets?.([...provider.secrets].filter(Boolean));
}
