// A small internet of its own: a DNS server that sends every name here, a certificate authority, and the ports 80 and 443.
// In it the program is started as its users start it. Run in a network namespace that belongs to nobody else:
//   unshare --net --mount node public.mjs BINARY PYTHON
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { dirname, join } from "node:path";
import { runCases, start, until } from "./harness.mjs";
import { URL_TOP, at, build, certificate, issued, listens, setName, stopOthers, tearDown } from "./small_internet.mjs";
import { DEMO, FILESYSTEM, isReady, reaches, stopped, type, workplace } from "./typing.mjs";
import { typescriptFlow } from "./typescript_client.mjs";

const [binary, python, only = ""] = process.argv.slice(2);

// What stands for Let's Encrypt here. Everything else is as the user types it.
const HERE = { TLS_DIRECTORY_URL: "https://localhost:14000/dir", ACME_CA_FILE: at("ca.pem") };
// What the README has people export first.
const TYPED = { ...HERE, PASSWORD: "changeme" };

// An MCP server of no substance, which says what reached it.
function upstream(port, { name } = {}) {
  const handle = (request, response) => response.end(`${request.method} ${request.url} ${request.headers["x-forwarded-user"]}`);
  const server = name ? https.createServer({ cert: readFileSync(at(`${name}.pem`)), key: readFileSync(at(`${name}.key`)) }, handle) : http.createServer(handle);
  return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve({ stop: () => (server.close(), server.closeAllConnections()) })));
}

const isStatic = !/interpreter/.test(execFileSync("file", ["-L", binary], { encoding: "utf8" }));

// The binary in a directory with nothing else but the certificates that stand for the public ones.
function jail() {
  const root = mkdtempSync(at("jail-"));
  copyFileSync(binary, join(root, "mcp-auth-proxy"));
  chmodSync(join(root, "mcp-auth-proxy"), 0o755);
  copyFileSync(at("ca.pem"), join(root, "ca.pem"));
  return { root, run: (args, env = {}) => start("/usr/sbin/chroot", [root, "/mcp-auth-proxy", ...args], env) };
}

const cases = {
  "the command of the README serves a client over TLS, and again after a restart without another certificate": async () => {
    const folder = workplace();
    const notes = join(folder, "notes");
    mkdirSync(notes);
    copyFileSync(join(folder, "greeting.txt"), join(notes, "greeting.txt"));
    const line = `mcp-auth-proxy --external-url ${URL_TOP} --tls-accept-tos -- npx -y @modelcontextprotocol/server-filesystem ./notes`;
    const before = performance.now();
    const first = type(binary, line, folder, TYPED);
    await isReady(first, 1);
    await typescriptFlow({ url: `${URL_TOP}/mcp`, password: "changeme", tools: FILESYSTEM(notes) });
    console.log(`      from an empty directory to a signed-in client that has read a file: ${((performance.now() - before) / 1000).toFixed(1)} s`);
    await first.stop("SIGKILL");
    await until("the port is free", () => !listens(443));
    const second = type(binary, line, folder, TYPED);
    await isReady(second);
    await typescriptFlow({ url: `${URL_TOP}/mcp`, password: "changeme", tools: FILESYSTEM(notes) });
    assert.equal(issued(), 1);
    await stopped(second);
    rmSync(folder, { recursive: true });
  },

  "the plain port sends a browser to https": async () => {
    const folder = workplace();
    const proxy = type(binary, `mcp-auth-proxy -e ${URL_TOP} --tls-accept-tos http://localhost:8080`, folder, TYPED);
    await isReady(proxy, 1);
    const reply = await fetch("http://mcp.example.com/.auth/login?x=1", { redirect: "manual" });
    assert.deepEqual([reply.status, reply.headers.get("location")], [308, `${URL_TOP}/.auth/login?x=1`]);
    const page = await fetch("http://mcp.example.com/.auth/login");
    assert.deepEqual([page.status, page.url, page.headers.get("strict-transport-security")], [200, `${URL_TOP}/.auth/login`, "max-age=63072000"]);
    await stopped(proxy);
    rmSync(folder, { recursive: true });
  },

  "doctor at public addresses: the proxy as it should be, and what is wrong with names, addresses and ports": async () => {
    const PUBLIC = "8.0.0.8";
    execFileSync("ip", ["addr", "add", `${PUBLIC}/32`, "dev", "lo"]);
    await setName("add-a", { host: "mcp.example.com.", addresses: [PUBLIC] });
    // Whoever has a name can put a private address beside the public one.
    await setName("add-a", { host: "twice.example.com.", addresses: [PUBLIC, "10.0.0.2"] });
    await setName("add-aaaa", { host: "twice.example.com.", addresses: ["2600::1"] });
    await setName("add-a", { host: "internal.example.com.", addresses: ["10.0.0.1"] });
    const folder = workplace();
    const proxy = type(binary, `mcp-auth-proxy -e ${URL_TOP} --tls-accept-tos http://localhost:8080`, folder, TYPED);
    await isReady(proxy, 1);
    const doctor = (...args) => {
      const done = spawnSync(binary, ["doctor", "--json", "--ca-file", at("roots.pem"), ...args], { encoding: "utf8" });
      const report = JSON.parse(done.stdout);
      return { code: done.status, report, found: Object.fromEntries(report.steps.filter((step) => step.finding).map((step) => [step.finding, step.fails])) };
    };
    const MACHINE = ["cursor", "vscode", "gemini-cli", "codex", "inspector", "mcp-remote", "librechat", "typescript-sdk", "python-sdk"].flatMap((client) => ["--client", client]);
    // Clients on their user's machine trust the authority of this world, so they get through.
    const good = doctor(`${URL_TOP}/mcp`, ...MACHINE);
    assert.deepEqual([good.code, Object.keys(good.found)], [0, ["certificate-private-authority"]], JSON.stringify(good.report, null, 1));
    assert.deepEqual(good.found["certificate-private-authority"], []);
    const vendors = doctor(`${URL_TOP}/mcp`, "--no-registration");
    assert.deepEqual(vendors.found["certificate-private-authority"], ["claude", "chatgpt"], JSON.stringify(vendors.report, null, 1));
    assert.equal(vendors.code, 2);
    // The names of vendors lead to this machine, and the proxy fetches nothing from there.
    assert.deepEqual(vendors.found["document-not-fetched"], ["claude", "claude-code", "goose"], JSON.stringify(vendors.report, null, 1));
    await stopped(proxy);

    // A server that names an authorization server of its own network.
    const calls = [];
    const server = http.createServer((request, response) => {
      calls.push(`${request.method} ${request.url}`);
      const base = `http://${request.headers.host}`;
      if (request.url === "/mcp") return response.writeHead(401, { "WWW-Authenticate": `Bearer resource_metadata="${base}/.well-known/oauth-protected-resource/mcp"` }).end();
      if (!request.url.startsWith("/.well-known/oauth-protected-resource")) return response.writeHead(404).end();
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify({ resource: `${base}/mcp`, authorization_servers: ["http://internal.example.com"] }));
    });
    await new Promise((resolve) => server.listen(80, "0.0.0.0", resolve));
    const plain = await new Promise((resolve) => {
      const child = spawn(binary, ["doctor", "--json", "http://twice.example.com/mcp"]);
      let out = "";
      child.stdout.on("data", (piece) => (out += piece));
      child.on("close", (code) => resolve({ code, found: Object.fromEntries(JSON.parse(out).steps.filter((step) => step.finding).map((step) => [step.finding, step.fails])) }));
    });
    assert.equal(plain.code, 2);
    assert.deepEqual(plain.found["not-https"], ["claude", "chatgpt"], JSON.stringify(plain.found));
    assert.deepEqual(plain.found["some-addresses-fail"], []);
    assert.equal(plain.found["private-address"].length, 13);
    assert.ok(calls.includes("POST /mcp"));
    server.close();
    server.closeAllConnections();
    await setName("clear-a", { host: "twice.example.com." });
    await setName("set-default-ipv4", { ip: "" });
    const six = doctor("http://twice.example.com/mcp");
    assert.deepEqual([six.found["ipv6-only"], six.found["no-connection"]?.length], [["claude", "chatgpt"], 13], JSON.stringify(six.report, null, 1));

    const local = type(binary, "mcp-auth-proxy -e http://localhost:8090 -- mcp-auth-proxy stdio-demo", folder, { ...TYPED, DATA_PATH: at("local") });
    await isReady(local);
    const offline = doctor("http://localhost:8090/mcp");
    assert.deepEqual([offline.code, offline.found], [0, { "this-machine": [], "documents-not-seen": [] }], JSON.stringify(offline.report, null, 1));
    await stopped(local);
    await setName("set-default-ipv4", { ip: "127.0.0.1" });
    const elsewhere = type(binary, `mcp-auth-proxy -e ${URL_TOP}:8443 --tls-listen :8443 --tls-accept-tos http://localhost:8080`, folder, TYPED);
    await isReady(elsewhere);
    const other = doctor(`${URL_TOP}:8443/mcp`, ...MACHINE);
    assert.deepEqual(Object.keys(other.found).sort(), ["certificate-private-authority", "other-port"], JSON.stringify(other.report, null, 1));
    await stopped(elsewhere);
    for (const host of ["mcp.example.com.", "twice.example.com.", "internal.example.com."]) await setName("clear-a", { host });
    await setName("clear-aaaa", { host: "twice.example.com." });
    execFileSync("ip", ["addr", "del", `${PUBLIC}/32`, "dev", "lo"]);
    rmSync(folder, { recursive: true });
  },

  "scanners find nothing": async () => {
    const folder = workplace();
    const proxy = type(binary, `mcp-auth-proxy -e ${URL_TOP} --tls-accept-tos http://localhost:8080`, folder, TYPED);
    await isReady(proxy, 1);
    const sslyze = spawnSync(join(dirname(python), "sslyze"), ["--mozilla_config", "intermediate", "--certinfo_ca_file", at("roots.pem"), "mcp.example.com"], { encoding: "utf8" });
    assert.match(sslyze.stdout, /mcp\.example\.com:443: OK - Compliant/, sslyze.stdout.slice(-2000) + sslyze.stderr);
    const testssl = () => {
      rmSync(at("testssl.json"), { force: true });
      spawnSync("testssl", ["--add-ca", at("roots.pem"), "--ip", "127.0.0.1", "--color", "0", "--quiet", "--severity", "LOW", "--jsonfile", at("testssl.json"), URL_TOP], { encoding: "utf8" });
      return JSON.parse(readFileSync(at("testssl.json"), "utf8"));
    };
    // The authority of this world tells of no way to ask whether a certificate was revoked, and its DNS has no CAA.
    const ofTheAuthority = /^(cert_(revocation|crlDistributionPoints|ocspURL|mustStapleExtension)|OCSP_stapling|DNS_CAArecord|scanProblem|engine_problem|cert_chain_of_trust|cert_trust)/;
    const look = () => testssl().filter(({ id, severity }) => !["OK", "INFO", "DEBUG"].includes(severity) && !ofTheAuthority.test(id));
    let found = look();
    // It closes a connection before the tickets have come, now and then, and then can't resume: a look that failed is no finding.
    for (let i = 0; i < 2 && found.length > 0 && found.every(({ finding }) => /check failed/.test(finding)); i++) found = look();
    assert.deepEqual(found, []);
    await stopped(proxy);
    rmSync(folder, { recursive: true });
  },

  "the static binary in an empty directory: DNS, a certificate, and a server over stdio that is the binary itself": async () => {
    assert.ok(isStatic, "the binary is not static");
    const { root, run } = jail();
    const args = ["-e", URL_TOP, "--tls-accept-tos", "--tls-directory-url", HERE.TLS_DIRECTORY_URL, "--acme-ca-file", "/ca.pem", "-d", "/data", "--password", "changeme"];
    const proxy = run([...args, "--", "/mcp-auth-proxy", "stdio-demo"]);
    await isReady(proxy, 1);
    await typescriptFlow({ url: `${URL_TOP}/mcp`, password: "changeme", tools: DEMO });
    const check = spawnSync("chroot", [root, "/mcp-auth-proxy", "healthcheck", "-d", "/data"], { encoding: "utf8" });
    assert.equal(check.status, 0, check.stderr);
    await stopped(proxy);
    assert.equal(spawnSync("chroot", [root, "/mcp-auth-proxy", "healthcheck", "-d", "/data"]).status, 1);
  },

  "the static binary in an empty directory: an upstream server by its name over https, trusted by the authorities it is told of and by no other": async () => {
    certificate("upstream.example.com");
    const server = await upstream(9443, { name: "upstream.example.com" });
    const origin = "http://mcp.internal";
    const { run } = jail();
    const args = ["-e", origin, "-d", "/data", "--password", "changeme", "https://upstream.example.com:9443"];
    const trusting = run(["--ca-file", "/ca.pem", ...args]);
    await isReady(trusting);
    assert.equal(await reaches(origin), "GET /mcp password");
    await stopped(trusting);
    // Nothing but the public authorities, which are part of the binary.
    const strict = run(args);
    await isReady(strict);
    await assert.rejects(reaches(origin));
    await until("the log says why", () => /UnknownIssuer|unknown issuer/i.test(strict.stderr));
    await stopped(strict);
    server.stop();
  },

  "an image without programs says so when it is given the command of one": async () => {
    const { run } = jail();
    const proxy = run(["-d", "/data", "--password", "x", "--", "npx", "-y", "server"], { PATH: "/usr/bin" });
    assert.equal(await proxy.exited, 2);
    assert.match(proxy.stderr, /npx.*no programs.*full/s);
  },

  "an environment as sigbit's quick start has it, over http": async () => {
    const server = await upstream(8080);
    const env = { EXTERNAL_URL: "http://localhost", PROXY_URL: "http://localhost:8080", PASSWORD: "changeme", DATA_PATH: at("sigbit-http") };
    const proxy = type(binary, "mcp-auth-proxy", at(""), env);
    await isReady(proxy);
    assert.equal(await reaches("http://localhost"), "GET /mcp password");
    await stopped(proxy);
    server.stop();
  },

  "an environment as sigbit's automatic TLS has it": async () => {
    const server = await upstream(8080);
    const env = { ...HERE, EXTERNAL_URL: URL_TOP, PROXY_URL: "http://localhost:8080", TLS_HOST: "mcp.example.com", TLS_ACCEPT_TOS: "true", PASSWORD: "changeme", DATA_PATH: at("sigbit-tls") };
    const proxy = type(binary, "mcp-auth-proxy", at(""), env);
    await isReady(proxy, 1);
    assert.equal(await reaches(URL_TOP), "GET /mcp password");
    await stopped(proxy);
    server.stop();
  },

  "sigbit's command with all ways to sign in": async () => {
    const server = await upstream(8080);
    const line = `./bin/mcp-auth-proxy \\
      --external-url "http://localhost:8081" \\
      --proxy-url "http://localhost:8080" \\
      --google-client-id "your-google-client-id" \\
      --google-client-secret "your-google-client-secret" \\
      --google-allowed-users "user1@example.com,user2@example.com" \\
      --github-client-id "your-github-client-id" \\
      --github-client-secret "your-github-client-secret" \\
      --github-allowed-users "username1,username2" \\
      --password "changeme"`;
    const proxy = type(binary, line, at(""), { DATA_PATH: at("sigbit-all"), LISTEN: ":8081" });
    await isReady(proxy);
    assert.equal(await reaches("http://localhost:8081"), "GET /mcp password");
    const page = await (await fetch("http://localhost:8081/.auth/login")).text();
    for (const part of ["Google", "GitHub", "password"]) assert.match(page, new RegExp(part));
    await stopped(proxy);
    server.stop();
  },

  "sigbit's arguments for Docker and Kubernetes": async () => {
    const server = await upstream(8000);
    const folder = workplace();
    // Docker: the command behind the image's name, without dashes before it.
    const docker = type(binary, "mcp-auth-proxy npx -y @modelcontextprotocol/server-filesystem ./", folder, { ...HERE, EXTERNAL_URL: URL_TOP, TLS_ACCEPT_TOS: "1", PASSWORD: "your-secure-password", DATA_PATH: at("sigbit-docker") });
    await isReady(docker, 1);
    await typescriptFlow({ url: `${URL_TOP}/mcp`, password: "your-secure-password", tools: FILESYSTEM(folder) });
    await stopped(docker);
    // Kubernetes: beside the server, with TLS in front.
    const sidecar = type(binary, `mcp-auth-proxy --external-url=${URL_TOP} --no-auto-tls "http://localhost:8000"`, folder, { PASSWORD: "changeme", DATA_PATH: at("sigbit-pod") });
    await isReady(sidecar);
    const reply = await fetch("http://localhost/.well-known/oauth-authorization-server");
    assert.equal((await reply.json()).issuer, URL_TOP);
    await stopped(sidecar);
    rmSync(folder, { recursive: true });
    server.stop();
  },

  "every variable of sigbit's Compose file at once": async () => {
    const folder = workplace();
    const env = {
      ...HERE, EXTERNAL_URL: URL_TOP, TLS_ACCEPT_TOS: "true", PASSWORD: "your-secure-password", DATA_PATH: at("sigbit-compose"),
      GOOGLE_CLIENT_ID: "your-google-client-id", GOOGLE_CLIENT_SECRET: "your-google-client-secret", GOOGLE_ALLOWED_USERS: "user1@example.com,user2@example.com", GOOGLE_ALLOWED_WORKSPACES: "workspace1.com,workspace2.com",
      GITHUB_CLIENT_ID: "your-github-client-id", GITHUB_CLIENT_SECRET: "your-github-client-secret", GITHUB_ALLOWED_USERS: "username1,username2", GITHUB_ALLOWED_ORGS: "org1,org2:team1",
      OIDC_CONFIGURATION_URL: "https://your-oidc-provider/.well-known/openid_configuration", OIDC_CLIENT_ID: "your-oidc-client-id", OIDC_CLIENT_SECRET: "your-oidc-client-secret", OIDC_ALLOWED_USERS: "specific@user.com", OIDC_ALLOWED_USERS_GLOB: "*@example.com",
      TRUSTED_PROXIES: "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16", LISTEN: ":80", TLS_LISTEN: ":443", MODE: "production", REPOSITORY_BACKEND: "local", HTTP_STREAMING_ONLY: "false", NO_PROVIDER_AUTO_SELECT: "false",
    };
    const proxy = type(binary, "mcp-auth-proxy npx -y @modelcontextprotocol/server-filesystem ./", folder, env);
    await isReady(proxy, 1);
    const page = await (await fetch(`${URL_TOP}/.auth/login`)).text();
    for (const part of ["Google", "GitHub", "OIDC", "password"]) assert.match(page, new RegExp(part));
    await typescriptFlow({ url: `${URL_TOP}/mcp`, password: "your-secure-password", tools: FILESYSTEM(folder) });
    await stopped(proxy);
    rmSync(folder, { recursive: true });
  },
};

await build();
await runCases(Object.fromEntries(Object.entries(cases).filter(([name]) => name.includes(only))), {
  // What a failed case leaves behind would hold the ports.
  afterFailure: async () => {
    stopOthers();
    await until("the port is free", () => !listens(443));
  },
  atEnd: tearDown,
});
