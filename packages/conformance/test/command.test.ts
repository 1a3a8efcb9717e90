import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const CLI = fileURLToPath(new URL("../src/cli.ts", import.meta.url));
const CORE = new URL("../../core/src/index.ts", import.meta.url).href;
const NULL = new URL("../src/null-backend.ts", import.meta.url).href;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fa-command-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A back end of one's own, as a module in a folder of one's own. */
function module(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

function run(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--conditions=@fa/source", CLI, ...args], {
    encoding: "utf8",
    cwd: folder,
  });
  return { status, stdout, stderr };
}

describe("fa-conformance", () => {
  it("prints a table by capability and exits 0 when all pass", () => {
    const { status, stdout } = run("--backend", "reference", "--capability", "tutorial,causal");
    expect(stdout).toMatch(/tutorial +4 +0 +0 +\d/);
    expect(stdout).toMatch(/causal/);
    expect(stdout.trim()).toMatch(/\d+ passed, 0 failed, 0 refused$/);
    expect(status).toBe(0);
  });
  it("exits 1 and gives each reason for a back end that computes nothing", () => {
    const path = module("null-backend.ts", `export { nullBackend as default } from "${NULL}";`);
    const { status, stdout } = run("--backend", path, "--capability", "tutorial,window");
    expect(status).toBe(1);
    expect(stdout).toMatch(/failed {2}tutorial mistake 1.*\n.*out.*elements off/);
    expect(stdout.trim()).toMatch(/^0 passed|[1-9]\d* failed/m);
  });
  it("counts what a back end says that it cannot do as refused, not failed", () => {
    const path = module(
      "partial.ts",
      `import { reference } from "${CORE}";
       export const partial = () => ({ ...reference(), async open() {
         const backend = await reference().open();
         const kernels = backend.kernels.filter((row) => row.op !== "attentionBackward");
         return Object.defineProperty(backend, "kernels", { value: kernels });
       } });`,
    );
    const { status, stdout } = run("--backend", `${path}#partial`, "--capability", "tutorial,determinism");
    expect(stdout).toMatch(/refused {2}the same inputs give the same bits.*\n.*the kernel table has no row/);
    expect(stdout).toMatch(/4 passed, 0 failed, 1 refused/);
    expect(status).toBe(0);
  });
  it("exits 2 with one clear line for what cannot be loaded or opened", () => {
    const missing = run("--backend", "@fa/backend-nowhere");
    expect(missing).toMatchObject({ status: 2, stdout: "" });
    expect(missing.stderr).toMatch(/^fa-conformance: @fa\/backend-nowhere could not be loaded: .*\n$/);
    const empty = run("--backend", module("empty.ts", "export const x = 1;"));
    expect(empty.status).toBe(2);
    expect(empty.stderr).toMatch(/must export a provider.*it exports x/);
    const closed = module(
      "closed.ts",
      `export default { name: "closed", probe: async () => ({ ok: false, reason: "the lid is shut" }), open() {} };`,
    );
    expect(run("--backend", closed)).toMatchObject({ status: 2, stderr: expect.stringMatching(/the lid is shut/) });
    expect(run("--backend", "reference", "--only", "no such check")).toMatchObject({ status: 2 });
    expect(run().status).toBe(1);
    expect(run("--backend", "reference", "--block-size", "0").stderr).toMatch(/integer from 1/);
  });
  it("runs parts that together are the whole, and refuses what is no part", () => {
    const list = (...args: string[]): string[] => {
      const lines = run("--backend", "reference", "--list", ...args).stdout.trim();
      return lines.split("\n");
    };
    const parts = ["1/3", "2/3", "3/3"].map((part) => list("--capability", "causal,gqa", "--part", part));
    expect(parts.flat()).toEqual(list("--capability", "causal,gqa"));
    expect(Math.max(...parts.map((part) => part.length)) - Math.min(...parts.map((part) => part.length))).toBeLessThan(
      2,
    );
    expect(run("--backend", "reference", "--part", "4/3").stderr).toMatch(/such as 3\/16/);
  });
  it("lists its checks and prints reports as JSON", () => {
    const { stdout } = run("--backend", "reference", "--list", "--capability", "tutorial");
    expect(stdout.trim().split("\n")).toHaveLength(4);
    const report: unknown = JSON.parse(run("--backend", "reference", "--json", "--capability", "tutorial").stdout);
    expect(report).toMatchObject({ backend: "reference", passed: 4, failed: 0, refused: 0 });
  });
});
