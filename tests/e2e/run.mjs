// Every end-to-end case against the real binary; the last line counts them.
//   node run.mjs BINARY PYTHON
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { conformance } from "./conformance.mjs";
import { answers, freePort, PASSWORD, start, startProxy, stopEverything } from "./harness.mjs";
import { screens } from "./screens.mjs";
import { typescriptFlow } from "./typescript_client.mjs";

const [binary, python] = process.argv.slice(2);
const here = import.meta.dirname;
const modules = createRequire(import.meta.url);
const node = process.execPath;
const EVERYTHING = { echo: "echo", echoArguments: { message: "hello" }, slow: "trigger-long-running-operation", slowArguments: { duration: 1, steps: 4 } };
const DEMO = { echo: "echo", echoArguments: { text: "hello" }, slow: "slow", slowArguments: { steps: 3 } };

async function everything(kind) {
  const port = await freePort();
  const script = join(dirname(modules.resolve("@modelcontextprotocol/server-everything/package.json")), "dist/index.js");
  const server = start(node, [script, kind], { PORT: String(port) });
  await answers(`http://127.0.0.1:${port}/`, server);
  return Object.assign(server, { url: `http://127.0.0.1:${port}` });
}

// Runs a case with a server and a proxy before it, and both stopped after it.
async function published(kind, run) {
  const server = await everything(kind);
  const proxy = await startProxy(binary, server.url);
  try {
    await run(proxy);
    assert.equal(await proxy.stop(), 0, "SIGTERM ends it in order");
  } catch (error) {
    error.message += `\nlog:\n${proxy.stderr.slice(-4000)}`;
    throw error;
  } finally {
    await server.stop("SIGKILL");
    proxy.clean();
  }
}

function pythonFlow(url, password, tools) {
  const args = [join(here, "python_client.py"), url, password, tools.echo, JSON.stringify(tools.echoArguments), tools.slow, JSON.stringify(tools.slowArguments)];
  const result = spawnSync(python, args, { encoding: "utf8", timeout: 180_000 });
  assert.equal(result.status, 0, result.stderr + result.stdout);
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
  "Python SDK over Streamable HTTP": () => published("streamableHttp", async (proxy) => pythonFlow(`${proxy.origin}/mcp`, PASSWORD, EVERYTHING)),
  "Python SDK over HTTP+SSE": () => published("sse", async (proxy) => pythonFlow(`${proxy.origin}/sse`, PASSWORD, EVERYTHING)),
  "hash-password at a terminal shows nothing that is typed": async () => {
    const result = spawnSync(python, [join(here, "terminal.py"), binary], { encoding: "utf8", timeout: 60_000 });
    assert.equal(result.status, 0, result.stderr);
  },
  "TypeScript SDK to the demo": () => demo(({ url, password }) => typescriptFlow({ url, password, tools: DEMO })),
  "Python SDK to the demo": () => demo(async ({ url, password }) => pythonFlow(url, password, DEMO)),
  "the official authorization suite, whole": () =>
    published("streamableHttp", async (proxy) => {
      const suite = dirname(modules.resolve("@modelcontextprotocol/conformance/package.json"));
      const { code, checks, output } = await conformance({ suite, node, origin: proxy.origin, password: PASSWORD, port: await freePort() });
      // Client ID metadata documents are optional, and not offered: the suite remarks on it.
      const expected = ["authorization-server-metadata-cimd"];
      const bad = checks.filter((check) => !["SUCCESS", "INFO"].includes(check.status) && !(check.status === "WARNING" && expected.includes(check.id)));
      assert.equal(code, 0, output);
      assert.match(output, /Total: [1-9]\d* passed, 0 failed/);
      assert.ok(checks.length > 0, output);
      assert.deepEqual(bad.map((check) => `${check.status} ${check.id} ${check.errorMessage ?? ""}`), []);
      console.log(`      ${checks.length} checks in ${output.match(/Running scenario/g).length} scenarios`);
    }),
  "Chromium: sign in, consent, sign out; pages at desktop and phone width": () =>
    published("streamableHttp", async (proxy) => {
      const pictures = join(here, "pictures");
      mkdirSync(pictures, { recursive: true });
      await screens({ playwright: modules("playwright-core"), origin: proxy.origin, password: PASSWORD, pictures });
    }),
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
stopEverything();
const total = Object.keys(cases).length;
console.log(`${total - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
