import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { DTYPE, FAMILY, OP, SLOTS, STATUS, type Addon } from "../src/abi.ts";
import { loadAddon } from "../src/addon.node.ts";
import { cuda } from "../src/index.ts";
import { ATTENTION_TILES, MOST_COUNTERS, MOST_SPLITS } from "../src/kernels.ts";
import { ADDON, complaints, emulatedAddon } from "../tools/build.ts";

const header = readFileSync(new URL("../native/launch.h", import.meta.url), "utf8");

/** Names of an enumeration of launch.h, in order. */
function enumeration(name: string): string[] {
  const body = new RegExp(`enum ${name} \\{(.*?)\\}`, "s").exec(header)![1];
  return body
    .replaceAll(/\/\*.*?\*\//gs, "")
    .split(",")
    .map((item) => item.replace(/=.*/s, "").trim())
    .filter((item) => item !== "");
}

/** "FA_MATMUL_A_ROW" is "aRow" after its prefix. */
const camel = (name: string, prefix: string): string =>
  name
    .slice(prefix.length)
    .toLowerCase()
    .replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase());

describe("abi.ts says what launch.h says", () => {
  test.each([
    ["cast", "FaCast", "FA_CAST_"],
    ["forward", "FaAttention", "FA_"],
    ["backward", "FaAttention", "FA_"],
    ["matmul", "FaMatmul", "FA_MATMUL_"],
    ["columnSums", "FaColumnSums", "FA_SUMS_"],
    ["gather", "FaGather", "FA_GATHER_"],
  ] as const)("the places of %s", (op, name, prefix) => {
    const names = enumeration(name).map((item) => camel(item, prefix));
    expect(names.at(-1)).toMatch(/[sS]lots$/);
    expect(names.slice(0, -1)).toEqual(SLOTS[op]);
  });

  test("ops, dtypes and statuses", () => {
    expect(enumeration("FaOp").map((item) => camel(item, "FA_OP_"))).toEqual(Object.keys(OP));
    expect(Object.values(OP)).toEqual(Object.keys(OP).map((_, n) => n));
    expect(enumeration("FaFamily").map((item) => camel(item, "FA_"))).toEqual(Object.keys(FAMILY));
    expect(Object.values(FAMILY)).toEqual(Object.keys(FAMILY).map((_, n) => n));
    expect(enumeration("FaDType").map((item) => camel(item, "FA_"))).toEqual(Object.keys(DTYPE));
    expect(enumeration("FaStatus").map((item) => camel(item, "FA_"))).toEqual(Object.keys(STATUS));
  });
});

test.each([
  ["combine.cuh", "MOST_SPLITS", MOST_SPLITS],
  ["table.h", "MOST_COUNTERS", MOST_COUNTERS],
])("%s has the %s of kernels.ts", (file, name, value) => {
  const source = readFileSync(new URL(`../native/kernels/${file}`, import.meta.url), "utf8");
  expect(Number(new RegExp(`constexpr int ${name} = (\\d+);`).exec(source)?.[1])).toBe(value);
});

describe("a build fails on what a compiler says", () => {
  test("wgmma that is serialised, except C7519 alone", () => {
    const c7510 = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized";
    const c7519 = "ptxas info    : (C7519) Potential Performance Loss";
    expect(complaints(c7510)).toHaveLength(1);
    expect(complaints(c7519)).toHaveLength(0);
    expect(complaints(`${c7519}\n${c7510}`)).toHaveLength(2);
  });
  test("any warning", () => {
    expect(complaints("x.cu(3): warning #177-D: variable was declared but never referenced")).toHaveLength(1);
    expect(complaints("ptxas info    : Used 40 registers")).toHaveLength(0);
  });
});

const folder = mkdtempSync(join(tmpdir(), "fa-cuda-"));
afterAll(() => rmSync(folder, { recursive: true }));

const emulated = await emulatedAddon();

describe.skipIf(emulated.path === undefined)("the addon", () => {
  const path = emulated.path!;
  const broken = (name: string, change: (file: string) => void): string => {
    const file = join(folder, name);
    copyFileSync(path, file);
    change(file);
    return loadAddon(file).reason ?? "";
  };

  test("has the kernels that the table says", () => {
    const addon = createRequire(import.meta.url)(path) as Addon;
    const families = Object.keys(FAMILY);
    const compiled = addon.kernels().map(({ op, family, dtype, headDim, tileQ, tileKV, sharedBytes }) => ({
      op: op === OP.forward ? "attention" : "attentionBackward",
      family: families[family],
      bytes: dtype === DTYPE.float32 ? 4 : 2,
      headDim,
      tile: { q: tileQ, kv: tileKV },
      sharedBytes,
    }));
    expect(compiled).toEqual(ATTENTION_TILES);
  });

  test("that is cut off says so", () => {
    expect(broken("short.node", (file) => truncateSync(file, 100_000))).toMatch(
      /is cut off, 100000 bytes of \d+: .*again/,
    );
  });
  test("that is empty, or no library, says so", () => {
    expect(broken("empty.node", (file) => truncateSync(file, 0))).toMatch(/is no shared library/);
    expect(broken("text.node", (file) => writeFileSync(file, "x".repeat(5000)))).toMatch(/is no shared library/);
  });
  test("for another processor says so", () => {
    const reason = broken("arm.node", (file) => {
      const bytes = readFileSync(file);
      bytes.writeUInt16LE(0xb7, 18);
      writeFileSync(file, bytes);
    });
    expect(reason).toMatch(/is for another processor/);
  });
  test("that a process may not load says so", () => {
    const program = `import { cuda } from ${JSON.stringify(new URL("../src/index.ts", import.meta.url).href)};
      console.log((await cuda({ addon: ${JSON.stringify(path)} }).probe()).reason);`;
    const permissions = ["--permission", "--allow-fs-read=*", "--conditions=@fa/source", "--input-type=module"];
    const { stdout } = spawnSync(process.execPath, permissions, { encoding: "utf8", input: program });
    expect(stdout).toMatch(/^addons are not allowed in this process: with --permission pass --allow-addons/);
  });
  test("that is not there says so", () => {
    expect(loadAddon(join(folder, "none.node")).reason).toMatch(/cannot be read|Cannot find module/);
  });
});

describe("the prebuilt addon", () => {
  const missing = "there is no prebuilt addon: npm run build:cuda makes it, with nvcc 13 and g++";
  const addon = existsSync(ADDON) ? loadAddon(ADDON).addon : undefined;

  test("loads, with or without a GPU", ({ skip }) => {
    if (!existsSync(ADDON)) skip(missing);
    expect(addon!.kernels().length).toBe(ATTENTION_TILES.length);
  });
  test("says that there is no NVIDIA driver", async ({ skip }) => {
    if (!existsSync(ADDON)) skip(missing);
    if (addon!.probe(0).driver > 0) skip("there is an NVIDIA driver here");
    const provider = cuda({ addon: ADDON });
    expect(await provider.probe()).toMatchObject({ ok: false, reason: expect.stringMatching(/^no NVIDIA driver: /) });
    await expect(provider.open()).rejects.toMatchObject({ code: "FA_UNAVAILABLE" });
  });
});
