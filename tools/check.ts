// npm run check: lint (type-aware), format, types and import arrows, at once; shows what fails.
// npm run format (--fix): mends what lint and format can mend by themselves.

import { spawn, spawnSync } from "node:child_process";
import { root } from "./test-needs.ts";

const CHECKS: Readonly<Record<string, readonly [string, ...string[]]>> = {
  lint: ["oxlint", "--deny-warnings"],
  format: ["oxfmt", "--check"],
  types: ["tsc", "-b"],
  imports: ["node", "tools/check-imports.ts"],
};

// With CI set oxlint colours whatever it writes to.
const { CI: _, ...env } = process.env;

function run(name: string, [command, ...args]: readonly [string, ...string[]]): Promise<boolean> {
  const start = performance.now();
  return new Promise((resolve) => {
    let output = "";
    const child = spawn(command, args, { cwd: root, env, shell: process.platform === "win32" });
    child.stdout.on("data", (chunk) => (output += chunk));
    child.stderr.on("data", (chunk) => (output += chunk));
    child.on("error", (error) => (output += `${error.message}\n`));
    child.on("close", (code) => {
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      if (code !== 0) console.log(output.trimEnd());
      console.log(`${code === 0 ? "ok    " : "FAILED"}  ${name} (${seconds} s)`);
      resolve(code === 0);
    });
  });
}

if (process.argv.includes("--fix")) {
  for (const [command, ...args] of [["oxlint", "--fix"], ["oxfmt"]] as const)
    spawnSync(command, args, { cwd: root, stdio: "inherit" });
  process.exit();
}
const results = await Promise.all(Object.entries(CHECKS).map(([name, command]) => run(name, command)));
process.exitCode = results.every(Boolean) ? 0 : 1;
