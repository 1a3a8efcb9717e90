/**
 * Compiles `c/*.c` to `wasm/plain.wasm` and `wasm/relaxed.wasm`, which are committed, so that only those who change the C
 * need a compiler. `--check` compiles elsewhere and compares. Without clang-19 the committed files are kept.
 *
 * The flags that are not obvious: `-ffp-contract=off` since both variants say themselves where a product and a sum are
 * fused; `-disable-lsr` since loop strength reduction gives every row of a register block its own pointer, and there are
 * not that many registers. Tools that rewrite wasm (wasm-opt) undo the register blocks and are kept out.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Variant } from "../src/module.ts";
import { PACKAGE, VARIANTS } from "./variants.ts";

const CLANG = "clang-19";
const LINKER = "wasm-ld-19";
const COMPILE = [
  "--target=wasm32",
  "-std=c23",
  "-O3",
  "-ffreestanding",
  "-nostdlib",
  "-msimd128",
  "-mbulk-memory",
  "-ffp-contract=off",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-mllvm",
  "-disable-lsr",
];
const LINK = ["--no-entry", "--import-memory", "--stack-first", "-z", "stack-size=65536", "--strip-all", "--export=__heap_base"];
const EXTRA: Readonly<Record<Variant, readonly string[]>> = { plain: [], relaxed: ["-mrelaxed-simd"] };

const sources = new URL("c/", PACKAGE);
const committed = new URL("wasm/", PACKAGE);
const stampFile = new URL("stamp.json", committed);

/** Version of a tool, or undefined when it is not there. */
function version(tool: string): string | undefined {
  const { status, stdout } = spawnSync(tool, ["--version"], { encoding: "utf8" });
  return status === 0 ? stdout.split("\n")[0]!.replace(/.*?(version|LLD) (\S+).*/, "$2") : undefined;
}

function run(tool: string, args: readonly string[]): void {
  const { status, error, stderr } = spawnSync(tool, args, { encoding: "utf8" });
  if (status !== 0) {
    console.error(`${tool} failed: ${error?.message ?? stderr}`);
    process.exit(1);
  }
}

/** Compiles both variants into a folder. */
function build(folder: string): void {
  const objects = mkdtempSync(join(tmpdir(), "fa-wasm-"));
  try {
    for (const variant of VARIANTS) {
      const linked = sourceFiles("c").map((name) => {
        const object = join(objects, `${variant}-${name}.o`);
        run(CLANG, [...COMPILE, ...EXTRA[variant], "-c", fileURLToPath(new URL(name, sources)), "-o", object]);
        return object;
      });
      run(LINKER, [...LINK, ...linked, "-o", join(folder, `${variant}.wasm`)]);
    }
  } finally {
    rmSync(objects, { recursive: true, force: true });
  }
}

function sourceFiles(...extensions: string[]): string[] {
  return readdirSync(sources)
    .filter((name) => extensions.some((extension) => name.endsWith(`.${extension}`)))
    .sort();
}

const sha256 = (...contents: (string | Uint8Array)[]): string =>
  contents.reduce((hash, content) => hash.update(content), createHash("sha256")).digest("hex");

/** What the binaries were made from: sources, compiler and flags; and the binaries themselves. */
function stamp(folder: string, compiler: string) {
  const contents = sourceFiles("c", "h").flatMap((name) => [name, readFileSync(new URL(name, sources))]);
  const binaries = VARIANTS.map((variant) => [variant, sha256(readFileSync(join(folder, `${variant}.wasm`)))]);
  return {
    compiler,
    flags: sha256(JSON.stringify([COMPILE, LINK, EXTRA])),
    sources: sha256(...contents),
    binaries: Object.fromEntries(binaries) as Record<Variant, string>,
  };
}

function check(compiler: string): boolean {
  const folder = mkdtempSync(join(tmpdir(), "fa-wasm-check-"));
  try {
    build(folder);
    const different = VARIANTS.filter(
      (variant) => !readFileSync(join(folder, `${variant}.wasm`)).equals(readFileSync(new URL(`${variant}.wasm`, committed))),
    );
    const stale = JSON.stringify(stamp(folder, compiler)) !== JSON.stringify(JSON.parse(readFileSync(stampFile, "utf8")));
    for (const variant of different) {
      console.error(`wasm/${variant}.wasm is not what c/ compiles to with ${CLANG} ${compiler}: run npm run build:wasm and commit it`);
    }
    if (stale && different.length === 0) console.error("wasm/stamp.json is stale: run npm run build:wasm and commit it");
    return different.length === 0 && !stale;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const compiler = version(CLANG);
if (compiler === undefined || version(LINKER) === undefined) {
  const kept = VARIANTS.every((variant) => existsSync(new URL(`${variant}.wasm`, committed)));
  console.log(`${CLANG} or ${LINKER} is not installed: ${kept ? "the committed wasm files are kept" : "and no wasm files are here"}`);
  process.exit(kept ? 0 : 1);
} else if (process.argv.includes("--check")) {
  if (!check(compiler)) process.exit(1);
  console.log(`wasm/*.wasm are what c/ compiles to with ${CLANG} ${compiler}`);
} else {
  mkdirSync(committed, { recursive: true });
  const folder = fileURLToPath(committed);
  build(folder);
  writeFileSync(stampFile, `${JSON.stringify(stamp(folder, compiler), undefined, 2)}\n`);
  await import("./embed.ts");
  for (const variant of VARIANTS) {
    console.log(`wasm/${variant}.wasm ${readFileSync(new URL(`${variant}.wasm`, committed)).length} bytes`);
  }
}
