// npm test [-- vitest's filters and options]: every test of the repository.
//
// Runs vitest (in Node and in headless Chromium), then the steps that are no vitest tests, names each skip with its
// reason, and ends with one line, alone: `N passed, N failed, N skipped`. With CI=true or FA_REQUIRE_ALL=1 a required
// back end (tools/required.ts) or step that did not run is a failure, and `npm run check` and
// `npm run release-test` are steps too. With filters the steps are left out.

import { spawnSync } from "node:child_process";
import { globSync } from "node:fs";
import { relative } from "node:path";
import { parseCLI, startVitest, type Reporter, type TestModule } from "vitest/node";
import { missingRequired, type Ran } from "./required.ts";
import { findChromium, findClang, root } from "./test-needs.ts";

type Outcome = { readonly state: "passed" } | { readonly state: "failed" | "skipped"; readonly why: string };

interface Step {
  readonly name: string;
  readonly run: () => Outcome;
}

function runs(command: string, args: readonly string[], advice: string): Outcome {
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  return status === 0 ? { state: "passed" } : { state: "failed", why: advice };
}

const wasmIsCurrent: Step = {
  name: "the committed .wasm files are what their sources compile to",
  run: () => {
    const clang = findClang();
    if (!clang.found) return { state: "skipped", why: clang.why };
    return runs(
      process.execPath,
      ["packages/backend-wasm/tools/build.ts", "--check"],
      "npm run build:wasm makes them anew",
    );
  },
};

const checkIsClean: Step = {
  name: "npm run check",
  run: () => runs(process.execPath, ["tools/check.ts"], "see above; npm run format mends what can be mended"),
};

const releases: Step = {
  name: "npm run release-test",
  run: () => runs(process.execPath, ["tools/release-test.ts"], "see above"),
};

const requireAll = process.env["FA_REQUIRE_ALL"] === "1" || /^(1|true)$/.test(process.env["CI"] ?? "");
let passed = 0;
const failures: string[] = [];
const skips: string[] = [];
const ran: Ran[] = [];

function tally(module: TestModule): void {
  const file = relative(root, module.moduleId).replaceAll("\\", "/");
  const passedBefore = passed;
  for (const test of module.children.allTests()) {
    const result = test.result();
    const name = `${file} > ${test.fullName}`;
    if (result.state === "passed") passed += 1;
    else if (result.state === "failed") failures.push(name);
    else skips.push(`${name}: ${(result.state === "skipped" && result.note) || "no reason given"}`);
  }
  // A file that does not load, or a hook that throws, fails without a failing test.
  for (const suite of [module, ...module.children.allSuites()]) {
    const where = suite.type === "suite" ? `${file} > ${suite.fullName}` : file;
    for (const error of suite.errors()) failures.push(`${where}, outside its tests: ${error.message}`);
  }
  ran.push({ project: module.project.name.replace(/ .*/, ""), file, passed: passed - passedBefore });
}

const counter: Reporter = {
  onTestRunEnd(modules, unhandledErrors, reason) {
    modules.forEach(tally);
    for (const error of unhandledErrors) failures.push(`unhandled outside any test: ${error.message}`);
    if (reason === "interrupted") failures.push("the run was interrupted");
  },
};

const { filter, options } = parseCLI(["vitest", "run", ...process.argv.slice(2)]);
const partial = process.argv.length > 2;
const vitest = await startVitest(filter, {
  ...options,
  root,
  watch: false,
  reporters: [["default", { summary: false }], counter],
});
await vitest.close();

const chromium = findChromium();
if (!chromium.found) {
  for (const file of globSync("packages/*/test/**/*.browser.test.ts", { cwd: root }))
    skips.push(`${file}: ${chromium.why}`);
}

const steps = partial ? [] : requireAll ? [wasmIsCurrent, checkIsClean, releases] : [wasmIsCurrent];
for (const { name, run } of steps) {
  const outcome = run();
  if (outcome.state === "passed") passed += 1;
  else if (outcome.state === "skipped" && !requireAll) skips.push(`${name}: ${outcome.why}`);
  else failures.push(`${name}: ${outcome.why}`);
}
if (requireAll && !partial) {
  for (const name of missingRequired(ran)) failures.push(`required, but no test of it passed: ${name}`);
}
if (passed + failures.length === 0) failures.push("no test ran");

for (const skip of skips) console.log(`skipped  ${skip}`);
for (const failure of failures) console.log(`FAILED   ${failure}`);
console.log(`${passed} passed, ${failures.length} failed, ${skips.length} skipped`);
process.exit(failures.length === 0 ? 0 : 1);
