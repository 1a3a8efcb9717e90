/**
 * Compiles native/ to the addon: `node tools/build.ts` for the one on CUDA, which needs nvcc and g++ and goes to
 * npm/linux-x64/, and `--emulated` for the one that plays CUDA on the CPU, which needs g++ and goes to node_modules/.cache.
 *
 * `--check` says whether the addon that lies there is what the sources compile to, by its stamp: sources, compiler, flags and
 * the file itself. Without nvcc, what lies there is kept. `--archs 90` builds for some architectures only, for trying things
 * out (then the stamp says so), `--ptx` as PTX of compute_80 alone, which is how the generic kernels run on a newer GPU as an
 * older one would run them. `--report` lists registers and spills. `--release` says whether what lies there may be published.
 *
 * A warning fails the build, and so does a message C75xx of ptxas, by which it says that it serialised wgmma, except C7519 alone.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const packageFolder: string = dirname(dirname(fileURLToPath(import.meta.url)));
const native: string = join(packageFolder, "native");
const cache: string = join(packageFolder, "node_modules", ".cache");
const prebuilt: string = join(packageFolder, "npm", "linux-x64");

/** Where the addons go. */
export const ADDON: string = join(prebuilt, "fa-cuda.node");
export const EMULATED: string = join(cache, "emulated", "fa-cuda.node");

/** Compute capabilities that get machine code; the last also PTX, for newer ones. */
const ARCHS: readonly string[] = ["80", "86", "89", "90"];
/** wgmma and setmaxnreg are in no other code than this. */
const SM90A: readonly string[] = ["-gencode", "arch=compute_90a,code=sm_90a"];

const { values: options } = parseArgs({
  // Others import this file for `emulatedAddon`.
  args: import.meta.main ? process.argv.slice(2) : [],
  options: {
    emulated: { type: "boolean", default: false },
    check: { type: "boolean", default: false },
    report: { type: "boolean", default: false },
    ptx: { type: "boolean", default: false },
    release: { type: "boolean", default: false },
    archs: { type: "string" },
    out: { type: "string" },
  },
});

const packageOf = (name: string): string => dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));

const CXX = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"];
const NAPI = ["-DNAPI_VERSION=9", "-DNODE_ADDON_API_CPP_EXCEPTIONS"];
const LINK = ["-shared", "-static-libstdc++", "-Wl,--exclude-libs,ALL", "-lpthread"];

interface Variant {
  readonly out: string;
  readonly stamp: string;
  /** Compiler and arguments for a source. */
  readonly compile: (source: string) => readonly [string, ...string[]];
  readonly sources: readonly string[];
  readonly link: readonly string[];
  readonly compiler: string;
  /** Compute capabilities that it has machine code for. */
  readonly archs: readonly string[];
}

function version(tool: string): string | undefined {
  const { status, stdout } = spawnSync(tool, ["--version"], { encoding: "utf8" });
  if (status !== 0) return undefined;
  return (/release \S+ (V\S+)/.exec(stdout) ?? /(\d+\.\d+\.\d+)/.exec(stdout))?.[1];
}

/** Folder of the static CUDA runtime. */
function cudaLibraries(): string {
  const { stderr } = spawnSync("nvcc", ["--dryrun", "-x", "cu", "/dev/null"], { encoding: "utf8" });
  const found = /LIBRARIES=.*?"?-L([^"\s]+)"?/.exec(stderr)?.[1];
  const top = /TOP=(\S+)/.exec(stderr)?.[1] ?? "";
  const places = [found ?? "", join(top, "lib64"), join(top, "targets/x86_64-linux/lib"), "/usr/local/cuda/lib64"];
  return places.find((place) => existsSync(join(place, "libcudart_static.a"))) ?? places[0];
}

function cudaHeaders(): string {
  const { stderr } = spawnSync("nvcc", ["--dryrun", "-x", "cu", "/dev/null"], { encoding: "utf8" });
  return /INCLUDES="?-I([^"\s]+)"?/.exec(stderr)?.[1] ?? "/usr/local/cuda/include";
}

const kernelSources: readonly string[] = globSync("{launch,kernels/*}.cu", { cwd: native }).toSorted();
/** Kernels for sm_90a alone; what calls them stands behind FA_SM90A. */
const isHopper = (source: string): boolean => basename(source).startsWith("hopper");
const portableSources: readonly string[] = kernelSources.filter((source) => !isHopper(source));

function cudaVariant(): Variant {
  const archs = options.archs?.split(",") ?? ARCHS;
  const hopper = !options.ptx && archs.includes("90") && portableSources.length < kernelSources.length;
  const codes = options.ptx
    ? ["-gencode", "arch=compute_80,code=compute_80"]
    : archs.flatMap((arch) => ["-gencode", `arch=compute_${arch},code=sm_${arch}`]);
  if (!options.ptx) codes.push("-gencode", `arch=compute_${archs.at(-1)},code=compute_${archs.at(-1)}`);
  const flags = ["-O3", "-std=c++17", "-Xptxas=-v", "--compress-mode=size", "-Xcompiler=-fPIC,-fvisibility=hidden"];
  const headers = cudaHeaders();
  return {
    out: resolve(options.out ?? ADDON),
    stamp: join(resolve(dirname(options.out ?? ADDON)), "stamp.json"),
    compiler: `nvcc ${version("nvcc")}, g++ ${version("g++")}`,
    archs: options.ptx ? [] : archs,
    sources: [...(hopper ? kernelSources : portableSources), "addon.cc"],
    compile: (source) =>
      source.endsWith(".cu")
        ? ["nvcc", ...flags, ...(isHopper(source) ? SM90A : codes), ...(hopper ? ["-DFA_SM90A"] : []), "-c", source]
        : ["g++", ...CXX, ...NAPI, ...includes(), "-isystem", headers, "-c", source],
    link: [...LINK, `-L${cudaLibraries()}`, "-lcudart_static", "-ldl", "-lrt"],
  };
}

function emulatedVariant(): Variant {
  return {
    out: resolve(options.out ?? EMULATED),
    stamp: join(resolve(dirname(options.out ?? EMULATED)), "stamp.json"),
    compiler: `g++ ${version("g++")}`,
    archs: [],
    sources: [...kernelSources, "addon.cc", "emulate/emulate.cc", "emulate/hopper.cc"],
    compile: (source) => [
      "g++",
      ...CXX,
      ...NAPI,
      ...includes(),
      "-DFA_EMULATED",
      "-DFA_SM90A",
      `-I${join(native, "emulate")}`,
      ...(source.endsWith(".cu") ? ["-x", "c++"] : []),
      "-c",
      source,
    ],
    link: LINK,
  };
}

function includes(): string[] {
  return ["-isystem", packageOf("node-addon-api"), "-isystem", join(packageOf("node-api-headers"), "include")];
}

const sha256 = (...contents: (string | Uint8Array)[]): string =>
  contents.reduce((hash, content) => hash.update(content), createHash("sha256")).digest("hex");

/** A source and all of ours that it includes, and they include; paths in native/. Also what stands behind an `#if` that is not taken. */
function filesOf(source: string, found: Set<string> = new Set()): ReadonlySet<string> {
  if (found.has(source) || !existsSync(join(native, source))) return found;
  found.add(source);
  for (const [, path] of readFileSync(join(native, source), "utf8").matchAll(/^\s*#\s*include "(.+)"/gm))
    filesOf(join(dirname(source), path), found);
  return found;
}

const hashOfFiles = (paths: Iterable<string>): string =>
  sha256(...[...paths].toSorted().flatMap((path) => [path, readFileSync(join(native, path))]));

/** What is beside an addon: what it was made from. */
interface Stamp {
  readonly compiler: string;
  readonly archs: readonly string[];
  readonly flags: string;
  readonly sources: string;
  readonly binary: string;
}

/** Of these sources and of all headers there are. */
const hashOfSources = (sources: readonly string[]): string =>
  sha256(
    hashOfFiles(globSync("**/*.{h,cuh}", { cwd: native })),
    ...sources.flatMap((path) => [path, readFileSync(join(native, path))]),
  );

function stampOf({ sources, compile, link, compiler, archs }: Variant, binary: string): string {
  const hidden = (text: string): string => text.replaceAll(packageFolder, "").replace(/\/\S*\/node_modules/g, "");
  const content: Stamp = {
    compiler,
    archs,
    flags: sha256(hidden(JSON.stringify([sources.map((source) => compile(source)), link]))),
    // All kernels, also those that this variant leaves out: addons of one state of the sources know each other.
    sources: hashOfSources([...kernelSources, ...sources.filter((source) => !source.endsWith(".cu"))]),
    binary: sha256(readFileSync(binary)),
  };
  return `${JSON.stringify(content, undefined, 2)}\n`;
}

function run(command: string, args: readonly string[]): Promise<{ status: number; output: string }> {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: native });
    let output = "";
    child.stdout.on("data", (text) => (output += text));
    child.stderr.on("data", (text) => (output += text));
    child.on("error", (error) => done({ status: 1, output: error.message }));
    child.on("close", (status) => done({ status: status ?? 1, output }));
  });
}

/** What a compiler says that a good build does not say. */
export function complaints(output: string): string[] {
  const lines = output.split("\n");
  const serialised = lines.filter((line) => /C75\d\d/.test(line));
  const only7519 = serialised.length > 0 && serialised.every((line) => /C7519/.test(line));
  return lines.filter((line) => (/C75\d\d/.test(line) && !only7519) || /\bwarning\b/i.test(line));
}

/** Objects are kept by what they are made from. */
async function compileOne({ compile }: Variant, source: string): Promise<string> {
  const command = compile(source);
  const key = sha256(JSON.stringify(command), hashOfFiles(filesOf(source)));
  const object = join(cache, "objects", `${basename(source)}-${key.slice(0, 24)}.o`);
  const log = `${object}.log`;
  if (!existsSync(object) || !existsSync(log)) {
    const fresh = `${object}.${process.pid}`;
    const { status, output } = await run(command[0], [...command.slice(1), "-o", fresh]);
    const wrong = complaints(output);
    if (status !== 0 || wrong.length > 0) throw new Error(`${source}:\n${status === 0 ? wrong.join("\n") : output}`);
    writeFileSync(log, output);
    renameSync(fresh, object);
  }
  if (options.report) report(readFileSync(log, "utf8"));
  return object;
}

/** Registers and spills of each kernel. */
function report(log: string): void {
  let kernel = "";
  let spills = "";
  for (const line of log.split("\n")) {
    kernel = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line)?.slice(1).join(" ") ?? kernel;
    spills = /(\d+ bytes stack frame.*)/.exec(line)?.[1] ?? spills;
    const registers = /Used (\d+) registers/.exec(line)?.[1];
    if (registers) console.log(`${registers} registers, ${spills}: ${kernel}`);
  }
}

async function build(variant: Variant): Promise<void> {
  mkdirSync(join(cache, "objects"), { recursive: true });
  mkdirSync(dirname(variant.out), { recursive: true });
  const objects: string[] = [];
  const waiting = [...variant.sources.entries()];
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      objects[next[0]] = await compileOne(variant, next[1]);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  const fresh = `${variant.out}.${process.pid}`;
  const { status, output } = await run("g++", [...objects, ...variant.link, "-o", fresh]);
  if (status !== 0) throw new Error(output);
  const stripped = await run("strip", ["--strip-unneeded", fresh]);
  if (stripped.status !== 0) throw new Error(stripped.output);
  renameSync(fresh, variant.out);
  writeFileSync(variant.stamp, stampOf(variant, variant.out));
}

/** Why what lies there is not what the sources compile to. */
function stale(variant: Variant): string | undefined {
  if (!existsSync(variant.out) || !existsSync(variant.stamp)) return "it is not built";
  return readFileSync(variant.stamp, "utf8") === stampOf(variant, variant.out)
    ? undefined
    : "it was made from other sources, or with other flags";
}

/** Builds the addon that plays CUDA on the CPU, unless it is there: where it lies, or why it cannot be had. */
export async function emulatedAddon(): Promise<{ path: string } | { path?: undefined; why: string }> {
  if (process.platform !== "linux" || process.arch !== "x64")
    return { why: "CUDA is emulated on Linux on x86-64 only" };
  if (version("g++") === undefined) return { why: "g++ is not installed: apt-get install g++" };
  const variant = emulatedVariant();
  if (stale(variant) !== undefined) await build(variant);
  return { path: variant.out };
}

/**
 * Why the prebuilt addon may not be published: it has to be there whole, from these sources, for all architectures, and these sources
 * have to have passed `npm run gpu-verify`, whose committed results say which they were of. Needs no compiler.
 */
function whyNotReleased(): string | undefined {
  if (!existsSync(ADDON) || !existsSync(join(prebuilt, "stamp.json"))) return "it is not built: npm run build:cuda";
  const stamp = JSON.parse(readFileSync(join(prebuilt, "stamp.json"), "utf8")) as Stamp;
  const sources = hashOfSources([...kernelSources, "addon.cc"]);
  if (stamp.sources !== sources || stamp.binary !== sha256(readFileSync(ADDON)))
    return "it was made from other sources: npm run build:cuda";
  if (stamp.archs.join() !== ARCHS.join()) return `it lacks architectures, it has ${stamp.archs.join(", ")}`;
  const results = join(packageFolder, "../../apps/bench/results/conformance");
  const passed = globSync("*-cuda.json", { cwd: results }).some((file) => {
    const verified = JSON.parse(readFileSync(join(results, file), "utf8")) as Verified;
    return verified.sources === sources && verified.results.every(({ status }) => status === "passed");
  });
  return passed ? undefined : "no committed result says that these sources passed on a GPU: npm run gpu-verify";
}

/** What `gpu-verify` writes. */
interface Verified {
  readonly sources?: string;
  readonly results: readonly { readonly status: string }[];
}

async function main(): Promise<number> {
  if (options.release) {
    const why = whyNotReleased();
    console.log(why === undefined ? "the addon may be published" : `the addon may not be published: ${why}`);
    return why === undefined ? 0 : 1;
  }
  if (options.emulated) {
    const built = await emulatedAddon();
    console.log(built.path === undefined ? built.why : `${built.path} ${statSync(built.path).size} bytes`);
    return 0;
  }
  if (version("nvcc") === undefined) {
    console.log(`nvcc is not installed: the addon ${existsSync(ADDON) ? "that is there is kept" : "is not built"}`);
    return 0;
  }
  const variant = cudaVariant();
  const why = stale(variant);
  if (options.check) {
    console.log(why === undefined ? "the addon is what its sources compile to" : `the addon is stale: ${why}`);
    return why === undefined ? 0 : 1;
  }
  if (why !== undefined || options.report) await build(variant);
  console.log(`${variant.out} ${statSync(variant.out).size} bytes`);
  return 0;
}

if (import.meta.main) {
  process.exitCode = await main().catch((error: unknown) => {
    console.error((error as Error).message);
    return 1;
  });
}
