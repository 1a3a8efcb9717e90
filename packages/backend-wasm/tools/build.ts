/**
 * Compiles `c/*.c` to `wasm/{plain,relaxed}.wasm`, for shared memory, and `test/c/*.c` to `test/wasm/{plain,relaxed}.wasm`,
 * which reach what the first do not export. All are committed, so that only those who change the C need a compiler.
 * `--check` compiles elsewhere and compares. Without clang-19 the committed files are kept.
 *
 * What is built for shared memory runs on memory that is not: it differs in one byte (tools/embed.ts), so there is one file
 * for both.
 *
 * The flags that are not obvious: `-fno-unroll-loops` since what should be unrolled says so, and the rest is a seventh of the
 * size; `-ffp-contract=off` since both variants say themselves where a product and a sum are
 * fused; `-disable-lsr` since loop strength reduction gives every row of a register block its own pointer, and there are
 * not that many registers. Tools that rewrite wasm (wasm-opt) undo the register blocks and are kept out.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Variant } from "../src/module.ts";
import { PACKAGE, VARIANTS } from "./variants.ts";

const CLANG = "clang-19";
const LINKER = "wasm-ld-19";
const COMPILE = [
  "--target=wasm32",
  "-std=c23",
  "-O2",
  "-fno-unroll-loops",
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
const LINK = [
  "--no-entry",
  "--import-memory",
  "--stack-first",
  "-z",
  "stack-size=65536",
  "--strip-all",
  "--export=__heap_base",
];
const EXTRA: Readonly<Record<Variant, readonly string[]>> = { plain: [], relaxed: ["-mrelaxed-simd"] };
const COMPILE_SHARED = ["-matomics"];
/** Each thread has an instance of its own on the one memory, and sets the stack pointer to a stack of its own. */
const LINK_SHARED = ["--shared-memory", `--max-memory=${65536 * 65536}`, "--export=__stack_pointer"];

/** Folders of sources, and where their binaries go. */
const TARGETS = [
  { sources: "c/", binaries: "wasm/", shared: true },
  { sources: "test/c/", binaries: "test/wasm/", shared: false },
] as const;
const BINARIES = TARGETS.flatMap(({ sources, binaries, shared }) =>
  VARIANTS.map((variant) => ({ sources, shared, variant, path: `${binaries}${variant}.wasm` })),
);
const STAMP = "wasm/stamp.json";

const inPackage = (path: string): string => fileURLToPath(new URL(path, PACKAGE));

/** Version of a tool, or undefined when it is not there. */
function version(tool: string): string | undefined {
  const { status, stdout } = spawnSync(tool, ["--version"], { encoding: "utf8" });
  return status === 0 ? stdout.split("\n")[0].replace(/.*?(version|LLD) (\S+).*/, "$2") : undefined;
}

function run(tool: string, args: readonly string[]): void {
  const { status, error, stderr } = spawnSync(tool, args, { encoding: "utf8" });
  if (status !== 0) {
    console.error(`${tool} failed: ${error?.message ?? stderr}`);
    process.exit(1);
  }
}

/** Compiles every binary to the same path below a folder. */
function build(folder: string): void {
  const objects = mkdtempSync(join(tmpdir(), "fa-wasm-"));
  try {
    for (const { sources, shared, variant, path } of BINARIES) {
      const compile = [...COMPILE, ...EXTRA[variant], ...(shared ? COMPILE_SHARED : [])];
      const linked = sourceFiles(sources, ".c").map((source) => {
        const object = join(objects, `${variant}-${basename(source)}.o`);
        run(CLANG, [...compile, "-c", inPackage(source), "-o", object]);
        return object;
      });
      mkdirSync(dirname(join(folder, path)), { recursive: true });
      run(LINKER, [...LINK, ...(shared ? LINK_SHARED : []), ...linked, "-o", join(folder, path)]);
    }
  } finally {
    rmSync(objects, { recursive: true, force: true });
  }
}

/** Paths in the package. */
function sourceFiles(folder: string, ...extensions: string[]): string[] {
  return readdirSync(inPackage(folder))
    .filter((name) => extensions.some((extension) => name.endsWith(extension)))
    .toSorted()
    .map((name) => `${folder}${name}`);
}

const sha256 = (...contents: (string | Uint8Array)[]): string =>
  contents.reduce((hash, content) => hash.update(content), createHash("sha256")).digest("hex");

function hashOfSources(): string {
  const paths = TARGETS.flatMap(({ sources }) => sourceFiles(sources, ".c", ".h"));
  return sha256(...paths.flatMap((path) => [path, readFileSync(inPackage(path))]));
}

/** What the binaries were made from: sources, compiler and flags; and the binaries themselves. */
function stamp(folder: string, compiler: string): string {
  const content = {
    compiler,
    flags: sha256(JSON.stringify([COMPILE, LINK, EXTRA, COMPILE_SHARED, LINK_SHARED])),
    sources: hashOfSources(),
    binaries: Object.fromEntries(BINARIES.map(({ path }) => [path, sha256(readFileSync(join(folder, path)))])),
  };
  return `${JSON.stringify(content, undefined, 2)}\n`;
}

/** What is wrong with the committed files. */
function check(compiler: string): string[] {
  const folder = mkdtempSync(join(tmpdir(), "fa-wasm-check-"));
  try {
    build(folder);
    const differs = ({ path }: { path: string }): boolean =>
      !existsSync(inPackage(path)) || !readFileSync(join(folder, path)).equals(readFileSync(inPackage(path)));
    const wrong = BINARIES.filter(differs).map(({ path, sources }) => `${path} is not what ${sources} compiles to`);
    const stale = !existsSync(inPackage(STAMP)) || readFileSync(inPackage(STAMP), "utf8") !== stamp(folder, compiler);
    return stale ? [...wrong, `${STAMP} is stale`] : wrong;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const compiler = version(CLANG);
if (compiler === undefined || version(LINKER) === undefined) {
  const { sources } = JSON.parse(readFileSync(inPackage(STAMP), "utf8")) as { sources: string };
  const fresh = sources === hashOfSources();
  const state = fresh ? "are kept" : "are older than the C sources";
  console.log(`${CLANG} or ${LINKER} is not installed: the committed wasm files ${state}`);
  process.exitCode = fresh ? 0 : 1;
} else if (process.argv.includes("--check")) {
  const wrong = check(compiler);
  for (const line of wrong) console.error(`${line} with ${CLANG} ${compiler}: run npm run build:wasm and commit it`);
  if (wrong.length === 0) console.log(`the committed wasm files are what ${CLANG} ${compiler} makes of the sources`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
} else {
  build(inPackage("."));
  writeFileSync(inPackage(STAMP), stamp(inPackage("."), compiler));
  await import("./embed.ts");
  for (const { path } of BINARIES) console.log(`${path} ${readFileSync(inPackage(path)).length} bytes`);
}
