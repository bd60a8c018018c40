// Five MCP servers of one file, each reached by its URL alone, and what a token of one is worth at the others.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Browser } from "./browser.mjs";
import { getToken } from "./token.mjs";

const modules = createRequire(import.meta.url);

// mcp-remote as a desktop client starts it, knowing nothing but the URL: it is asked for its tools over stdio.
export async function mcpRemote({ node, url, password }) {
  const folder = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-remote-"));
  const program = join(dirname(modules.resolve("mcp-remote/package.json")), "dist/proxy.js");
  const env = { PATH: "/nonexistent", HOME: folder, MCP_REMOTE_CONFIG_DIR: folder };
  const child = spawn(node, [program, url, "--allow-http"], { env, stdio: ["pipe", "pipe", "pipe"] });
  let [said, answered, signedIn] = ["", "", false];
  child.stderr.on("data", async (data) => {
    said += data;
    // It prints the page for people whose browser it can't open.
    const page = /https?:\/\/\S+\/\.idp\/auth\?\S+/.exec(said);
    if (!page || signedIn) return;
    signedIn = true;
    const back = await new Browser().authorize(page[0], { password });
    await fetch(back);
  });
  child.stdout.on("data", (data) => (answered += data));
  const send = (message) => child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  const answer = async (id) => {
    for (let i = 0; i < 600; i++) {
      const found = answered.split("\n").filter((line) => line.includes('"id"')).map((line) => JSON.parse(line)).find((message) => message.id === id);
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`mcp-remote has not answered: ${said}\n${answered}`);
  };
  try {
    send({ id: 1, method: "initialize", params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "e2e", version: "1" } } });
    await answer(1);
    send({ method: "notifications/initialized" });
    send({ id: 2, method: "tools/list" });
    return (await answer(2)).result.tools.map((tool) => tool.name);
  } finally {
    child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  }
}

// A file with these servers, for `run`.
export async function withFile(servers, run) {
  const folder = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-servers-"));
  const file = join(folder, "mcp.json");
  writeFileSync(file, JSON.stringify({ mcpServers: servers }), { mode: 0o600 });
  writeFileSync(join(folder, "greeting.txt"), "hello\n");
  try {
    await run(file, folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

// A token of each server is good there, and refused at all others with their own challenge.
export async function eachTokenIsForOne({ origin, password, names }) {
  for (const name of names) {
    const token = await getToken({ origin, password, resource: `${origin}/${name}/mcp` });
    for (const other of names) {
      const reply = await fetch(`${origin}/${other}/mcp`, {
        method: "POST",
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json", accept: "application/json, text/event-stream" },
        body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "ping" }),
      });
      await reply.body?.cancel();
      if (other === name) {
        assert.notEqual(reply.status, 401, `${name} at itself`);
        continue;
      }
      assert.equal(reply.status, 401, `a token of ${name} at ${other}`);
      assert.match(reply.headers.get("www-authenticate"), new RegExp(`oauth-protected-resource/${other}/mcp".*error="invalid_token"`));
    }
  }
}
