// Every end-to-end case against the real binary; the last line counts them.
//   node run.mjs BINARY PYTHON [PART OF A NAME]
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { authlab } from "./authlab.mjs";
import { conformance } from "./conformance.mjs";
import { ofProxy, ofPython, ofTypescript } from "./doctor.mjs";
import { answers, freePort, PASSWORD, runCases, start, startProxy } from "./harness.mjs";
import { providerScreens, screens, serverScreens } from "./screens.mjs";
import { eachTokenIsForOne, mcpRemote, withFile } from "./servers.mjs";
import { getToken, startBearer } from "./token.mjs";
import { checks, lost, REVISIONS, wholeScenarios } from "./transparency.mjs";
import { typescriptFlow } from "./typescript_client.mjs";

const [binary, python, only = ""] = process.argv.slice(2);
const here = import.meta.dirname;
const modules = createRequire(import.meta.url);
const node = process.execPath;
// What each server is asked: a tool whose answer has "hello" in it, one that reports progress, one that asks the user.
const EVERYTHING = { echo: "echo", echoArguments: { message: "hello" }, slow: "trigger-long-running-operation", slowArguments: { duration: 1, steps: 4 } };
const DEMO = { echo: "echo", echoArguments: { text: "hello" }, slow: "slow", slowArguments: { steps: 3 }, ask: "ask" };
const MEMORY = { echo: "create_entities", echoArguments: { entities: [{ name: "hello", entityType: "word", observations: [] }] } };
const FILESYSTEM = { echo: "read_text_file", echoArguments: { path: "greeting.txt" } };
const TIME = { echo: "convert_time", echoArguments: { source_timezone: "UTC", time: "12:00", target_timezone: "Asia/Tokyo" }, answer: "21:00" };

const script = (name) => join(dirname(modules.resolve(`@modelcontextprotocol/${name}/package.json`)), "dist/index.js");

async function everything(kind) {
  const port = await freePort();
  const server = start(node, [script("server-everything"), kind], { PORT: String(port) });
  await answers(`http://127.0.0.1:${port}/`, server);
  return Object.assign(server, { url: `http://127.0.0.1:${port}` });
}

// Runs a case with a proxy, and stops it after it.
async function proxied(upstream, run, env) {
  const proxy = await startProxy(binary, upstream, env);
  try {
    await run(proxy);
    assert.equal(await proxy.stop(), 0, "SIGTERM ends it in order");
  } catch (error) {
    error.message += `\nlog:\n${proxy.stderr.slice(-4000)}`;
    throw error;
  } finally {
    await proxy.stop("SIGKILL");
    proxy.clean();
  }
}

// The same with a server at a URL.
async function published(kind, run) {
  const server = await everything(kind);
  try {
    await proxied([server.url], run);
  } finally {
    await server.stop("SIGKILL");
  }
}

// The same with a server over stdio, in a folder with a file in it.
async function overStdio(command, run) {
  const folder = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-files-"));
  writeFileSync(join(folder, "greeting.txt"), "hello\n");
  try {
    const env = { MEMORY_FILE_PATH: join(folder, "memory") };
    await proxied(["--", ...command.map((word) => word.replace("FOLDER", folder))], (proxy) => run(proxy, folder), env);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function pythonFlow(url, identity, tools) {
  const program = start(python, [join(here, "python_client.py"), url, JSON.stringify(identity), JSON.stringify(tools)]);
  const code = await program.exited;
  assert.equal(code, 0, program.stderr + program.stdout);
}

async function demo(run) {
  const port = await freePort();
  const program = start(binary, ["demo", "--listen", `127.0.0.1:${port}`]);
  try {
    await answers(`http://localhost:${port}/.well-known/jwks.json`, program);
    const password = /Password +(\S+)/.exec(program.stdout)[1];
    await run({ url: /URL +(\S+)/.exec(program.stdout)[1], password });
  } finally {
    await program.stop("SIGINT");
  }
}

function grepForSecrets(log, secrets) {
  assert.ok(secrets.length >= 8, `only ${secrets.length} secrets were seen`);
  for (const secret of [PASSWORD, ...secrets]) assert.ok(!log.includes(secret), `${secret} is in the log`);
}

// A provider for the proxy whose port is known beforehand; stopped and started again it has another key.
async function withProvider(flags, run, { alg = "RS256", env = {} } = {}) {
  const [port, proxyPort] = [await freePort(), await freePort()];
  const origin = `http://localhost:${proxyPort}`;
  const idp = {
    start: async () => {
      const args = [join(here, "idp.mjs"), "--port", String(port), "--redirect", `${origin}/.auth/oidc/callback`, "--alg", alg];
      idp.program = start(node, args);
      await answers(`http://127.0.0.1:${port}/jwks`, idp.program);
    },
    stop: () => idp.program.stop("SIGKILL"),
  };
  await idp.start();
  const server = await everything("streamableHttp");
  const provider = ["--oidc-configuration-url", `http://127.0.0.1:${port}/.well-known/openid-configuration`, "--oidc-client-id", "proxy", "--oidc-provider-name", "Example ID"];
  const proxy = await startProxy(binary, [server.url], { OIDC_CLIENT_SECRET: "s3cret & more", ...env }, { port: proxyPort, signIn: [...provider, ...flags] });
  try {
    await run(proxy, idp);
    assert.equal(await proxy.stop(), 0, "SIGTERM ends it in order");
  } catch (error) {
    error.message += `\nlog:\n${proxy.stderr.slice(-4000)}`;
    throw error;
  } finally {
    await Promise.all([proxy.stop("SIGKILL"), server.stop("SIGKILL"), idp.stop()]);
    proxy.clean();
  }
}

// Does the TypeScript SDK get in as `login`?
async function getsIn(proxy, login) {
  const identity = { provider: "oidc", login };
  try {
    await typescriptFlow({ url: `${proxy.origin}/mcp`, identity, tools: EVERYTHING });
    return true;
  } catch (error) {
    // The page that says so; anything else is a fault.
    if (!/^403: .*This account may not use this server/s.test(error.message)) throw error;
    return false;
  }
}

// Both SDKs with a server over stdio.
const bothOverStdio = (command, tools, then) => () =>
  overStdio(command, async (proxy, folder) => {
    // Files by their full paths; a word is learnt once only.
    const as = (from, to) => ({ ...tools, echoArguments: JSON.parse(JSON.stringify(tools.echoArguments).replace(from, to)) });
    await typescriptFlow({ url: `${proxy.origin}/mcp`, password: PASSWORD, tools: as("greeting.txt", join(folder, "greeting.txt")) });
    await pythonFlow(`${proxy.origin}/mcp`, { password: PASSWORD }, as(/greeting.txt|hello/, (word) => (word === "hello" ? "hello again" : join(folder, word))));
    then?.(proxy);
  });

// Five servers of one file: three over stdio, one by Streamable HTTP, one by HTTP+SSE.
async function fiveServers() {
  const [http, sse] = [await everything("streamableHttp"), await everything("sse")];
  const stdio = (name, ...args) => ({ command: node, args: [script(name), ...args] });
  const folder = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-notes-"));
  writeFileSync(join(folder, "greeting.txt"), "hello\n");
  const servers = {
    files: stdio("server-filesystem", folder),
    memory: { ...stdio("server-memory"), env: { MEMORY_FILE_PATH: join(folder, "memory") } },
    everything: stdio("server-everything", "stdio"),
    http: { type: "http", url: `${http.url}/mcp` },
    sse: { type: "sse", url: `${sse.url}/sse` },
  };
  const greeting = { ...FILESYSTEM, echoArguments: { path: join(folder, "greeting.txt") } };
  const [as, again] = [{ ...MEMORY }, { ...MEMORY, echoArguments: JSON.parse(JSON.stringify(MEMORY.echoArguments).replace("hello", "hello again")) }];
  try {
    await withFile(servers, (file) =>
      proxied(["--servers", file], async (proxy) => {
        const url = (name, path = "mcp") => `${proxy.origin}/${name}/${path}`;
        for (const [name, tools, second] of [["files", greeting, greeting], ["memory", as, again], ["everything", EVERYTHING, EVERYTHING], ["http", EVERYTHING, EVERYTHING]]) {
          await typescriptFlow({ url: url(name), password: PASSWORD, tools });
          await pythonFlow(url(name), { password: PASSWORD }, second);
        }
        await typescriptFlow({ url: url("sse", "sse"), sse: true, password: PASSWORD, tools: EVERYTHING });
        await pythonFlow(url("sse", "sse"), { password: PASSWORD }, EVERYTHING);
        for (const name of ["files", "http"]) {
          const tools = await mcpRemote({ node, url: url(name), password: PASSWORD });
          assert.ok(tools.includes(name === "files" ? "read_text_file" : "echo"), `${name}: ${tools}`);
        }
        await eachTokenIsForOne({ origin: proxy.origin, password: PASSWORD, names: Object.keys(servers) });
      }));
  } finally {
    await Promise.all([http.stop("SIGKILL"), sse.stop("SIGKILL")]);
    rmSync(folder, { recursive: true, force: true });
  }
}

// The official suite's server scenarios through the proxy, against those straight at the server.
async function nothingIsLost() {
  const suite = dirname(modules.resolve("@modelcontextprotocol/conformance/package.json"));
  const fixture = join(here, "conformance_server.mjs");
  const port = await freePort();
  const server = start(node, [fixture, "--port", String(port)]);
  const through = (upstream, revision) => {
    let found;
    const run = async (proxy) => {
      const bearer = await startBearer({ port: await freePort(), origin: proxy.origin, token: await getToken({ origin: proxy.origin, password: PASSWORD }) });
      found = await wholeScenarios({ suite, node, url: `http://localhost:${bearer.port}/mcp`, revision });
      bearer.stop();
    };
    return proxied(upstream, run).then(() => found);
  };
  try {
    await answers(`http://127.0.0.1:${port}/mcp`, server);
    for (const revision of REVISIONS) {
      const straight = await wholeScenarios({ suite, node, url: `http://localhost:${port}/mcp`, revision });
      const overHttp = await through([`http://127.0.0.1:${port}`], revision);
      const overStdio = await through(["--", node, fixture, "--stdio"], revision);
      const count = ({ whole }) => `${whole.size} scenarios, ${checks(whole)} checks`;
      console.log(`      ${revision}: straight ${count(straight)}; through the proxy over HTTP ${count(overHttp)}, over stdio ${count(overStdio)}`);
      assert.ok(straight.whole.size >= 30, straight.output);
      assert.deepEqual(lost(straight.whole, overHttp.whole), [], overHttp.output);
      assert.deepEqual(lost(straight.whole, overStdio.whole), ALLOWED[revision] ?? [], overStdio.output);
    }
  } finally {
    await server.stop("SIGKILL");
  }
}
// What a server over stdio has no word for: that its stream be closed, for the client to come back.
const ALLOWED = { "2025-11-25": ["server-sse-polling: 2 of 3"] };

const cases = {
  "TypeScript SDK over Streamable HTTP, and no secret of it in the log": () =>
    published("streamableHttp", async (proxy) => {
      let secrets = [];
      await typescriptFlow({ url: `${proxy.origin}/mcp`, password: PASSWORD, tools: EVERYTHING, onSecrets: (found) => (secrets = found) });
      grepForSecrets(proxy.stderr, secrets);
    }),
  "TypeScript SDK over HTTP+SSE, and no secret of it in the log": () =>
    published("sse", async (proxy) => {
      let secrets = [];
      await typescriptFlow({ url: `${proxy.origin}/sse`, sse: true, password: PASSWORD, tools: EVERYTHING, onSecrets: (found) => (secrets = found) });
      grepForSecrets(proxy.stderr, secrets);
    }),
  "Python SDK over Streamable HTTP": () => published("streamableHttp", async (proxy) => pythonFlow(`${proxy.origin}/mcp`, { password: PASSWORD }, EVERYTHING)),
  "Python SDK over HTTP+SSE": () => published("sse", async (proxy) => pythonFlow(`${proxy.origin}/sse`, { password: PASSWORD }, EVERYTHING)),
  "hash-password at a terminal shows nothing that is typed": async () => {
    const result = spawnSync(python, [join(here, "terminal.py"), binary], { encoding: "utf8", timeout: 60_000 });
    assert.equal(result.status, 0, result.stderr);
  },
  "TypeScript SDK to the demo": () => demo(({ url, password }) => typescriptFlow({ url, password, tools: DEMO })),
  "Python SDK to the demo": () => demo(async ({ url, password }) => pythonFlow(url, { password }, DEMO)),
  "both SDKs to server-everything over stdio": bothOverStdio([node, script("server-everything"), "stdio"], EVERYTHING),
  "Python SDK over HTTP+SSE to server-memory over stdio": () =>
    overStdio([node, script("server-memory")], (proxy) => pythonFlow(`${proxy.origin}/sse`, { password: PASSWORD }, MEMORY)),
  "both SDKs to server-filesystem over stdio": bothOverStdio([node, script("server-filesystem"), "FOLDER"], FILESYSTEM),
  "both SDKs to server-memory over stdio": bothOverStdio([node, script("server-memory")], MEMORY),
  "both SDKs to mcp-server-time over stdio, one of them in revision 2026-07-28": bothOverStdio([python, "-m", "mcp_server_time"], TIME, (proxy) => {
    assert.match(proxy.stderr, /knows revision 2026-07-28.*Modern/);
    assert.match(proxy.stderr, /a session has an MCP server of its own/);
  }),
  "five servers of one file, by their URLs alone: both SDKs and mcp-remote; a token is for one of them": fiveServers,
  "the official server suite: nothing is lost on the way": nothingIsLost,
  "a certified provider: who is on the list, or fits a pattern, gets in, and an address that is not verified is nobody's": () =>
    withProvider(["--oidc-allowed-users-glob", "*@example.com"], async (proxy, idp) => {
      assert.equal(await getsIn(proxy, "alice@example.com"), true);
      assert.equal(await getsIn(proxy, "bob@example.org"), false);
      assert.equal(await getsIn(proxy, "mallory@example.com"), false);
      for (const secret of ["s3cret & more", "s3cret+%26+more"]) assert.ok(!proxy.stderr.includes(secret));
      // Down, nobody gets in and the page says why; back with other keys, all is well.
      await idp.stop();
      await assert.rejects(getsIn(proxy, "alice@example.com"), /ECONNREFUSED|fetch failed|can't be reached/);
      await idp.start();
      assert.equal(await getsIn(proxy, "alice@example.com"), true);
    }),
  "a certified provider with ES256: groups, and a refresh that asks it again": () =>
    withProvider(["--oidc-allowed-groups", "engineering", "--oidc-scopes", "openid,email,profile,groups,offline_access"], async (proxy) => {
      assert.equal(await getsIn(proxy, "alice@example.com"), true);
      await pythonFlow(`${proxy.origin}/mcp`, { provider: "oidc", login: "alice@example.com" }, EVERYTHING);
      assert.equal(await getsIn(proxy, "bob@example.org"), false);
    }, { alg: "ES256" }),
  "the official authorization suite, whole": () =>
    published("streamableHttp", async (proxy) => {
      const suite = dirname(modules.resolve("@modelcontextprotocol/conformance/package.json"));
      const { code, checks, output } = await conformance({ suite, node, origin: proxy.origin, password: PASSWORD, port: await freePort() });
      const bad = checks.filter((check) => !["SUCCESS", "INFO"].includes(check.status));
      assert.equal(code, 0, output);
      assert.match(output, /Total: [1-9]\d* passed, 0 failed/);
      assert.ok(checks.length > 0, output);
      assert.deepEqual(bad.map((check) => `${check.status} ${check.id} ${check.errorMessage ?? ""}`), []);
      console.log(`      ${checks.length} checks in ${output.match(/Running scenario/g).length} scenarios`);
    }),
  "doctor finds nothing wrong with the proxy in front of server-everything": () => published("streamableHttp", (proxy) => ofProxy(binary, proxy)),
  "doctor says of a server made with the TypeScript SDK what is true of it": () => ofTypescript(binary, node),
  "doctor says of a server made with the Python SDK what is true of it": () => ofPython(binary, python),
  "mcp-authlab finds nothing, and tokens bound to their resource": () =>
    published("streamableHttp", async (proxy) => {
      const found = await authlab({ python, origin: proxy.origin, password: PASSWORD });
      for (const id of ["ASF-04", "TOK-02", "TOK-03", "TOK-05", "TOK-06", "SESS-01"]) assert.equal(found[id], "pass", id);
      // Plain http on loopback; and the server's own handling of versions and scopes.
      const expected = ["TLS-01", "VER-01", "SCOPE-01"];
      const bad = Object.entries(found).filter(([id, status]) => status !== "pass" && !expected.includes(id));
      assert.deepEqual(bad, []);
    }),
  "Chromium: several providers beside a password, no access, a provider that is not there": () =>
    withProvider(["--oidc-allowed-users", "alice@example.com", "--password", PASSWORD, "--google-client-id", "g", "--google-configuration-url", "http://127.0.0.1:9/none", "--google-allowed-users", "a@example.com", "--github-client-id", "g", "--github-allowed-users", "a"], async (proxy) => {
      const pictures = join(here, "pictures");
      mkdirSync(pictures, { recursive: true });
      await providerScreens({ playwright: modules("playwright-core"), origin: proxy.origin, pictures });
    }, { env: { GOOGLE_CLIENT_SECRET: "g", GITHUB_CLIENT_SECRET: "g" } }),
  "Chromium: several servers, users with names, the operator's name and logo, an application disconnected": async () => {
    const users = spawnSync(binary, ["hash-password", "--user", "alice"], { input: PASSWORD, encoding: "utf8" }).stdout;
    const server = (title, description, more = {}) => ({ url: "http://127.0.0.1:9/mcp", proxy: { title, description, ...more } });
    const servers = { files: server("Files", "The notes that the team keeps."), wiki: server("Wiki", ""), ledger: server("Ledger", "", { allow: { users: ["bob"] } }) };
    await withFile(servers, async (file, folder) => {
      writeFileSync(join(folder, "users"), users, { mode: 0o600 });
      writeFileSync(join(folder, "logo.svg"), '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8" width="8" height="8"><circle cx="4" cy="4" r="4" fill="#1f5fbf"/></svg>');
      const signIn = ["--htpasswd-file", join(folder, "users"), "--branding-name", "Example Team", "--branding-logo", join(folder, "logo.svg")];
      const proxy = await startProxy(binary, ["--servers", file], { NO_UPSTREAM_CHECK: "1" }, { signIn });
      try {
        const pictures = join(here, "pictures");
        mkdirSync(pictures, { recursive: true });
        await serverScreens({ playwright: modules("playwright-core"), origin: proxy.origin, name: "alice", password: PASSWORD, pictures });
      } finally {
        await proxy.stop("SIGKILL");
        proxy.clean();
      }
    });
  },
  "Chromium: sign in, consent, sign out; pages at desktop and phone width": () =>
    published("streamableHttp", async (proxy) => {
      const pictures = join(here, "pictures");
      mkdirSync(pictures, { recursive: true });
      await screens({ playwright: modules("playwright-core"), origin: proxy.origin, password: PASSWORD, pictures });
    }),
};

await runCases(Object.fromEntries(Object.entries(cases).filter(([name]) => name.includes(only))));
