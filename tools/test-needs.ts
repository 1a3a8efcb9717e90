// Finds what some tests need and a bare machine may lack. The system's own is preferred, then the copy that an npm
// package of this workspace ships. Each answer says where it was found, or why it was not and how to get it.

import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, dirname, isAbsolute, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export type Need =
  | { readonly found: true; readonly path: string; readonly why: string }
  | { readonly found: false; readonly path?: undefined; readonly why: string };

export const root: string = dirname(dirname(fileURLToPath(import.meta.url)));

const APT_CHROMIUM = "apt-get install chromium, or set CHROMIUM to a browser, or npm install without --omit=optional";
const APT_CLANG = "apt-get install clang-19 lld-19";

const have = (path: string, why: string): Need => ({ found: true, path, why });
const lack = (why: string): Need => ({ found: false, why });

function executable(name: string): string | undefined {
  const places = isAbsolute(name) ? [name] : (process.env["PATH"] ?? "").split(delimiter).map((dir) => join(dir, name));
  return places.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

// -- the browser of the npm package ----------------------------------------------------------------------------

interface Unpacked {
  readonly browser: string;
  readonly vulkanIcd: string;
}

/**
 * Unpacks @sparticuz/chromium once, into node_modules/.cache. The package itself would unpack into the shared
 * temporary folder and trust whatever lies there.
 */
function unpackChromium(): Unpacked | string {
  if (process.platform !== "linux" || process.arch !== "x64")
    return `npm ships Chromium for linux-x64 only, this is ${process.platform}-${process.arch}`;
  let entry: string;
  try {
    entry = import.meta.resolve("@sparticuz/chromium");
  } catch {
    return "the optional package @sparticuz/chromium is not installed";
  }
  const { version } = JSON.parse(readFileSync(new URL("../package.json", entry), "utf8")) as { version: string };
  const at = join(root, "node_modules", ".cache", `chromium-${version}`);
  const unpacked: Unpacked = { browser: join(at, "browser"), vulkanIcd: join(at, "vk_swiftshader_icd.json") };
  if (existsSync(unpacked.browser)) return unpacked;

  const fresh = `${at}.${process.pid}`;
  mkdirSync(fresh, { recursive: true });
  const script = `
    const { default: chromium, inflate } = await import(${JSON.stringify(entry)});
    const { fileURLToPath } = await import("node:url");
    await chromium.executablePath();
    await inflate(fileURLToPath(new URL("../bin/al2023.tar.br", ${JSON.stringify(entry)})));`;
  const run = spawnSync(process.execPath, ["--input-type=module", "--eval", script], {
    env: { ...process.env, TMPDIR: fresh },
    encoding: "utf8",
  });
  if (run.status !== 0) {
    rmSync(fresh, { recursive: true, force: true });
    return `@sparticuz/chromium could not be unpacked: ${run.stderr.trim().split("\n").at(-1)}`;
  }
  // NSS and expat come along in the package, for machines that lack them; the machine's own are left alone if it has them.
  const bare = spawnSync(join(fresh, "chromium"), ["--version"]).status !== 0;
  const libraries = bare ? `export LD_LIBRARY_PATH="$here/al2023/lib\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n` : "";
  const launcher = `#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\n${libraries}export FONTCONFIG_PATH="$here/fonts"\nexec "$here/chromium" "$@"\n`;
  writeFileSync(join(fresh, "browser"), launcher, { mode: 0o755 });
  try {
    renameSync(fresh, at);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (!existsSync(unpacked.browser)) throw error; // else another process was first
  }
  return unpacked;
}

/** FA_NPM_CHROMIUM=1 passes the system's browser and driver over, to try the npm package's. */
const npmOnly = (): boolean => process.env["FA_NPM_CHROMIUM"] === "1";

/** Not a word to the network. */
export const CHROMIUM_ARGS: readonly string[] = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** WebGPU on SwiftShader. */
export const CHROMIUM_WEBGPU_ARGS: readonly string[] = [
  "--enable-unsafe-webgpu",
  // Shaders compile 20 times faster without it.
  "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
];

/** A Chromium to run headless. */
export function findChromium(): Need {
  if (!npmOnly()) {
    const named = process.env["CHROMIUM"];
    if (named) {
      const path = executable(named);
      return path ? have(path, "named by CHROMIUM") : lack(`CHROMIUM names ${named}, which cannot be run`);
    }
    const system = [
      "chromium",
      "chromium-browser",
      "google-chrome",
      "google-chrome-stable",
      "/Applications/Chromium.app/Contents/MacOS/Chromium",
      "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ];
    for (const name of system) {
      const path = executable(name);
      if (path) return have(path, "the system's");
    }
  }
  const unpacked = unpackChromium();
  return typeof unpacked === "string"
    ? lack(`no Chromium on PATH, and ${unpacked}. Fix: ${APT_CHROMIUM}`)
    : have(unpacked.browser, "from npm, @sparticuz/chromium");
}

/** The JSON manifest of a software Vulkan driver, to be given in VK_DRIVER_FILES. */
export function findSoftwareVulkan(): Need {
  if (!npmOnly()) {
    const named = process.env["FA_VULKAN_ICD"];
    if (named)
      return existsSync(named)
        ? have(named, "named by FA_VULKAN_ICD")
        : lack(`FA_VULKAN_ICD names ${named}, which does not exist`);
    const arch = process.arch === "arm64" ? "aarch64" : "x86_64";
    const system = [
      "/usr/lib/chromium/vk_swiftshader_icd.json",
      "/opt/google/chrome/vk_swiftshader_icd.json",
      `/usr/share/vulkan/icd.d/lvp_icd.${arch}.json`,
      "/usr/share/vulkan/icd.d/lvp_icd.json",
    ];
    const path = system.find((candidate) => existsSync(candidate));
    if (path) return have(path, "the system's");
  }
  const unpacked = unpackChromium();
  return typeof unpacked === "string"
    ? lack(
        `no software Vulkan driver in the usual places, and ${unpacked}. Fix: apt-get install chromium or mesa-vulkan-drivers`,
      )
    : have(unpacked.vulkanIcd, "from npm, @sparticuz/chromium");
}

/** The manifest of Mesa's software Vulkan driver, recent enough for Dawn: unlike Chromium's it has float16. */
export function findLavapipe(): Need {
  const named = process.env["FA_LAVAPIPE_ICD"];
  if (named)
    return existsSync(named)
      ? have(named, "named by FA_LAVAPIPE_ICD")
      : lack(`FA_LAVAPIPE_ICD names ${named}, which does not exist`);
  const path = join(root, "node_modules", ".cache", "lavapipe", "icd.json");
  return existsSync(path)
    ? have(path, "unpacked by tools/lavapipe.sh")
    : lack("not unpacked. Fix on Debian 12: bash tools/lavapipe.sh");
}

/** Deno, whose WebGPU is wgpu, as Firefox's is. */
export function findDeno(): Need {
  const named = process.env["DENO"];
  const path = executable(named || "deno");
  if (path) return have(path, named ? "named by DENO" : "on PATH");
  if (named) return lack(`DENO names ${named}, which cannot be run`);
  const shipped = join(root, "node_modules", "@deno", "linux-x64-glibc", "deno");
  if (executable(shipped)) return have(shipped, "of the npm package @deno/linux-x64-glibc");
  return lack("not on PATH. Fix: install Deno, or on Linux npm install without --omit=optional");
}

/** Puts the folder of a driver's own Vulkan loader where child processes look for libraries; theirs is used if they have one. */
export function offerVulkanLoader({ path }: Need): void {
  if (path === undefined || process.platform !== "linux") return;
  const folder = dirname(path);
  if (!existsSync(join(folder, "libvulkan.so.1"))) return;
  process.env["LD_LIBRARY_PATH"] = [process.env["LD_LIBRARY_PATH"], folder].filter(Boolean).join(delimiter);
}

// -- the compiler and the oracle -------------------------------------------------------------------------------

/** The compiler that the committed .wasm files are made with. */
export function findClang(): Need {
  const missing = ["clang-19", "wasm-ld-19"].filter((name) => !executable(name));
  if (missing.length > 0) return lack(`${missing.join(" and ")} not on PATH. Fix: ${APT_CLANG}`);
  return have(executable("clang-19")!, "with wasm-ld-19, on PATH");
}

/** The folder of answers that no kernel of this repository computed (PyTorch, ONNX). */
export function findOracle(): Need {
  const named = process.env["FA_ORACLE"];
  const path = named ? resolve(named) : resolve(root, "..", "shared", "oracle");
  if (existsSync(path)) return have(path, named ? "named by FA_ORACLE" : "beside the checkout");
  return lack(
    `${named ? `FA_ORACLE names ${path}, which does not exist` : "no ../shared/oracle beside the checkout"}. Fix: set FA_ORACLE to the oracle folder`,
  );
}
