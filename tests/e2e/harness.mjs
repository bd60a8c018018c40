// Starts programs on free ports, waits until they answer, and stops them by their process ids.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
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
  const proxy = start(binary, args, { LOG_LEVEL: "debug", ...env });
  await answers(`${origin}/.well-known/jwks.json`, proxy);
  return Object.assign(proxy, { origin, clean: () => rmSync(data, { recursive: true, force: true }) });
}

// Runs each case by its name, and `afterFailure` behind one that fails; the last line counts them. Ends the process.
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
  atEnd();
  console.log(`${Object.keys(cases).length - failed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

export function stopEverything({ but = [] } = {}) {
  for (const child of running) if (!but.includes(child)) child.kill("SIGKILL");
}
