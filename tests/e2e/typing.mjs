// The program as its users start it: a line typed in a shell, and what is looked at afterwards.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { start, until } from "./harness.mjs";
import { at } from "./small_internet.mjs";
import { getToken } from "./token.mjs";

const here = import.meta.dirname;

// A folder with a file in it, from which npx finds the servers that are installed.
export function workplace() {
  const folder = mkdtempSync(join(here, "work-"));
  writeFileSync(join(folder, "greeting.txt"), "hello\n");
  return folder;
}

// Types `line` in a shell, in `folder`, with the program on the PATH.
export function type(binary, line, folder, env = {}) {
  mkdirSync(at("bin"), { recursive: true });
  if (!existsSync(at("bin/mcp-auth-proxy"))) symlinkSync(binary, at("bin/mcp-auth-proxy"));
  const node = dirname(process.execPath);
  const PATH = `${at("bin")}:${node}:${process.env.PATH}`;
  return start("sh", ["-c", `cd "$0" && exec ${line.replaceAll("\\\n", " ")}`, folder], { ...env, PATH });
}

export async function stopped(program) {
  assert.equal(await program.stop(), 0, program.stderr);
}

export const READY = /a certificate was obtained and is in use|ready:/g;
export const isReady = (program, certificates = 0) =>
  until("the proxy is ready", () => {
    assert.equal(program.child.exitCode, null, program.stderr);
    const said = program.stderr.match(READY) ?? [];
    return said.includes("ready:") && said.length > certificates;
  });

export const FILESYSTEM = (folder) => ({ echo: "read_text_file", echoArguments: { path: join(folder, "greeting.txt") } });
export const DEMO = { echo: "echo", echoArguments: { text: "hello" }, slow: "slow", slowArguments: { steps: 3 }, ask: "ask" };

// Signs in at `origin` and asks the server behind; its answer.
export async function reaches(origin, password = "changeme", username = undefined) {
  const token = await getToken({ origin, username, password });
  const reply = await fetch(`${origin}/mcp`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(reply.status, 200, origin);
  return reply.text();
}
