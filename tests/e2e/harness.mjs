// Starts programs on free ports, waits until they answer, and stops them by their process ids.
import { spawn } from "node:child_process";
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const PASSWORD = "end-to-end password";
const running = new Set();

// Below those that the system gives to outgoing connections, of which other tests make many.
export const freePort = () =>
  new Promise((resolve) => {
    const port = 12_000 + Math.floor(Math.random() * 20_000);
    const server = createServer();
    server.once("error", () => resolve(freePort()));
    server.listen(port, () => server.close(() => resolve(port)));
  });

// Starts a program; `output` grows with what it says.
export function start(command, args, env = {}) {
  const child = spawn(command, args, { env: { PATH: process.env.PATH, HOME: process.env.HOME, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const program = { child, stdout: "", stderr: "", exited: new Promise((resolve) => child.on("close", resolve)) };
  child.stdout.on("data", (data) => (program.stdout += data));
  child.stderr.on("data", (data) => (program.stderr += data));
  running.add(child);
  child.on("close", () => running.delete(child));
  program.stop = async (signal = "SIGTERM") => {
    child.kill(signal);
    return program.exited;
  };
  return program;
}

export async function answers(url, program) {
  for (let i = 0; i < 600; i++) {
    try {
      await (await fetch(url, { method: "HEAD" })).arrayBuffer();
      return;
    } catch {
      if (program.child.exitCode !== null) throw new Error(`${program.child.spawnfile} ended: ${program.stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  throw new Error(`nothing answers at ${url}: ${program.stderr}`);
}

// The proxy before an upstream server, as the README starts it; `upstream` is its URL, or -- and its command.
export async function startProxy(binary, upstream, env = {}, { port, signIn = ["--password", PASSWORD] } = {}) {
  port ??= await freePort();
  const origin = `http://localhost:${port}`;
  const data = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-e2e-"));
  const args = ["--listen", `127.0.0.1:${port}`, "--external-url", origin, ...signIn, "--data-path", join(data, "data"), ...upstream];
  const logs = { ACCESS_LOG: join(data, "access.log"), AUDIT_LOG: join(data, "audit.log") };
  const proxy = start(binary, args, { LOG_LEVEL: "debug", ...logs, ...env });
  const watched = { proxy, logs, read: false };
  everyLog.push(watched);
  await answers(`${origin}/.well-known/jwks.json`, proxy);
  const clean = () => {
    readLogs(watched);
    rmSync(data, { recursive: true, force: true });
  };
  return Object.assign(proxy, { origin, clean });
}

// Of each proxy of this run: what its logs must not have, and how many lines were looked at.
const everyLog = [];
const leaks = [];
let audited = 0;

function readLogs(watched) {
  if (watched.read) return;
  watched.read = true;
  const { proxy, logs } = watched;
  const texts = { "the log": proxy.stderr };
  for (const path of Object.values(logs)) {
    try {
      texts[path] = readFileSync(path, "utf8");
    } catch {
      // A proxy that was told to keep no such log.
    }
  }
  for (const [name, text] of Object.entries(texts)) {
    const isLog = name === "the log";
    // Only tokens, codes and secrets are so long and have letters of both kinds and digits: ids have at most 36 letters. The
    // log has URLs, too.
    const secrets = isLog ? /eyJ[\w-]{8,}\.[\w-]{8,}|map_[A-Za-z0-9]{20,}/g : /(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*\d)[\w-]{40,}|map_[A-Za-z0-9]{20,}/g;
    for (const line of text.split("\n")) {
      audited += isLog ? 0 : Number(line !== "");
      if (line.match(secrets) || line.includes(PASSWORD)) leaks.push(`${name}: ${line}`);
    }
  }
}

// The last of the cases of a run.
function noSecretIsInAnyLog() {
  everyLog.forEach(readLogs);
  assert.deepEqual(leaks, []);
  assert.ok(audited > 0, "no line of an access log or an audit log was seen");
}

// Runs each case by its name, and `afterFailure` behind one that fails; the last line counts them. Ends the process.
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits until `holds`, for half a minute at most.
export async function until(what, holds) {
  for (let i = 0; i < 600; i++) {
    if (await holds()) return;
    await sleep(50);
  }
  throw new Error(`it did not come to pass: ${what}`);
}

export async function runCases(cases, { afterFailure = () => {}, atEnd = () => {} } = {}) {
  let failed = 0;
  for (const [name, run] of Object.entries(cases)) {
    try {
      await run();
      console.log(`ok    ${name}`);
    } catch (error) {
      failed++;
      console.log(`FAIL  ${name}\n${error.stack}`);
      await afterFailure();
    }
  }
  stopEverything();
  await atEnd();
  if (everyLog.length > 0) {
    cases = { ...cases, "no secret is in any log of the run": noSecretIsInAnyLog };
    try {
      noSecretIsInAnyLog();
      console.log(`ok    no secret is in any log of the run (${audited} lines of access and audit logs)`);
    } catch (error) {
      failed++;
      console.log(`FAIL  no secret is in any log of the run\n${error.stack}`);
    }
  }
  console.log(`${Object.keys(cases).length - failed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

export function stopEverything({ but = [] } = {}) {
  for (const child of running) if (!but.includes(child)) child.kill("SIGKILL");
}
