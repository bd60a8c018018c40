// The official suite's authorization server scenarios, with a simulated user.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Browser } from "./browser.mjs";

export async function conformance({ suite, node, origin, password, port }) {
  const redirect = `http://127.0.0.1:${port}/callback`;
  const registration = await fetch(`${origin}/.idp/register`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ client_name: "conformance", redirect_uris: [redirect], grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], token_endpoint_auth_method: "none" }),
  });
  const { client_id } = await registration.json();
  const results = mkdtempSync(join(tmpdir(), "mcp-auth-proxy-conformance-"));
  const child = spawn(node, [join(suite, "dist/index.js"), "authorization", "--url", origin, "--client-id", client_id, "--port", String(port), "--resource", `${origin}/mcp`, "-o", results], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let visited = false;
  const onOutput = async (data) => {
    output += data;
    const url = /^https?:\/\/\S*response_type=code\S*$/m.exec(output)?.[0];
    if (!url || visited) return;
    visited = true;
    try {
      const back = await new Browser().authorize(url, { password });
      await fetch(back);
    } catch (error) {
      output += `\nbrowser: ${error.message}`;
      child.kill();
    }
  };
  child.stdout.on("data", onOutput);
  child.stderr.on("data", onOutput);
  const code = await new Promise((resolve) => child.on("close", resolve));
  const files = readdirSync(results, { recursive: true }).filter((file) => file.endsWith("checks.json"));
  const checks = files.flatMap((file) => JSON.parse(readFileSync(join(results, file), "utf8")));
  rmSync(results, { recursive: true, force: true });
  return { code, checks, output };
}
