// What doctor says of servers that others have made: of those that come with the SDKs, and of the proxy in front of one.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { answers, freePort, start } from "./harness.mjs";

// Looks at `url`; what was found, each with the clients that it keeps out.
export async function look(binary, url, ...args) {
  const [code, out, err] = await new Promise((resolve) => execFile(binary, ["doctor", "--json", ...args, url], { maxBuffer: 1 << 24 }, (error, stdout, stderr) => resolve([error?.code ?? 0, stdout, stderr])));
  const report = JSON.parse(out || assert.fail(err));
  const found = Object.fromEntries(report.steps.filter((step) => step.finding).map((step) => [step.finding, step.fails]));
  return { code, report, found };
}

// A server that the SDK's own authorization server protects. The SDKs say error="invalid_token" without a token, and nothing of CORS at /mcp.
const OF_SDKS = { "this-machine": [], "challenge-with-error": [], "root-metadata-missing": [], "cors-mcp": ["inspector"], "cors-challenge": ["inspector"] };

async function looksAt(binary, command, args, expected) {
  const port = await freePort();
  const server = start(command, [...args, String(port)]);
  try {
    await answers(`http://127.0.0.1:${port}/`, server);
    const { code, report, found } = await look(binary, `http://localhost:${port}/mcp`);
    assert.deepEqual(found, expected, JSON.stringify(report, null, 1));
    assert.equal(code, 2);
    const through = report.clients.filter((client) => !client.fails).map((client) => client.client);
    assert.deepEqual(report.clients.filter((client) => client.fails).map((client) => client.client), ["inspector"], JSON.stringify(through));
  } finally {
    await server.stop("SIGKILL");
  }
}

export const ofTypescript = (binary, node) => looksAt(binary, node, ["reference_server.mjs"], OF_SDKS);
// It compares redirect URIs with their port.
export const ofPython = (binary, python) => looksAt(binary, python, ["reference_server.py"], { ...OF_SDKS, "loopback-port": [] });

// The proxy: nothing, but for documents of vendors, which this machine can't fetch.
export async function ofProxy(binary, proxy) {
  const { report, found } = await look(binary, `${proxy.origin}/mcp`);
  const { "documents-not-seen": _, "document-not-fetched": unfetched = [], "this-machine": local, ...rest } = found;
  assert.deepEqual([local, rest], [[], {}], JSON.stringify(report, null, 1));
  assert.ok(unfetched.every((client) => ["claude-code", "goose"].includes(client)), unfetched);
}
