// mcp-authlab, a scanner for the authorization of MCP servers: signs in for two resources, and scans with both tokens.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Browser } from "./browser.mjs";
import { start } from "./harness.mjs";

// The status of each check by its id.
export async function authlab({ python, origin, password }) {
  const folder = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-authlab-"));
  // It prints the URLs that a person should open, and opens them with BROWSER.
  const env = { XDG_CONFIG_HOME: folder, HOME: folder, BROWSER: "true" };
  const scanner = (...args) => start(python, ["-m", "mcp_authlab", ...args], env);
  try {
    const login = scanner("login", "--foreign-resource", `${origin}/other`, `${origin}/mcp`);
    const visited = new Set();
    const visit = async () => {
      for (const [url] of (login.stdout + login.stderr).matchAll(/^\s*http\S*response_type=code\S*(?=\n)/gm)) {
        if (visited.has(url)) continue;
        visited.add(url);
        await fetch(await new Browser().authorize(url.trim(), { password }));
      }
    };
    for (const output of [login.child.stdout, login.child.stderr]) output.on("data", () => visit().catch((error) => (login.child.kill(), (login.stderr += error.stack))));
    if ((await login.exited) !== 0) throw new Error(login.stdout + login.stderr);
    const scan = scanner("scan", "--format", "json", `${origin}/mcp`);
    await scan.exited;
    const report = JSON.parse(scan.stdout);
    return Object.fromEntries(report.results.map(({ id, status }) => [id, status]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
