// The official suite's server scenarios, straight at a server and through the proxy: what passes straight passes through it.
import { spawn } from "node:child_process";
import { join } from "node:path";

export const REVISIONS = ["2025-11-25", "2026-07-28"];

// The count of passed checks of each scenario that is whole at `url`.
export async function wholeScenarios({ suite, node, url, revision }) {
  const child = spawn(node, [join(suite, "dist/index.js"), "server", "--url", url, "--requirements", revision], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (data) => (output += data));
  child.stderr.on("data", (data) => (output += data));
  await new Promise((resolve) => child.on("close", resolve));
  const lines = [...output.matchAll(/^[✓✗] (\S+): (\d+) passed, (\d+) failed/gm)];
  // One with no check at all says nothing.
  const whole = new Map(lines.filter(([, , passed, failed]) => failed === "0" && passed !== "0").map(([, name, passed]) => [name, Number(passed)]));
  return { whole, output };
}

// What the way through the proxy has lost of what `straight` has.
export function lost(straight, through) {
  return [...straight].filter(([name, passed]) => (through.get(name) ?? 0) < passed).map(([name, passed]) => `${name}: ${through.get(name) ?? "not whole"} of ${passed}`);
}

export const checks = (whole) => [...whole.values()].reduce((sum, passed) => sum + passed, 0);
