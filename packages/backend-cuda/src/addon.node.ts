/** Finds the addon, and says in words why there is none. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Addon } from "./abi.ts";

const require = createRequire(import.meta.url);

export type Loaded =
  | { readonly addon: Addon; readonly reason?: undefined }
  | { readonly addon?: undefined; readonly reason: string };

/** Platforms that there is an addon for. */
const PLATFORMS = ["linux-x64"];

/** @param path a file to load instead of the one that is installed for this platform */
export function loadAddon(path?: string): Loaded {
  const platform = `${process.platform}-${process.arch}`;
  if (path === undefined && !PLATFORMS.includes(platform))
    return { reason: `there is no addon for ${platform}; there is one for ${PLATFORMS.join(", ")}` };
  const name = `@fa/backend-cuda-${platform}`;
  let file: string;
  try {
    file = path ?? require.resolve(name);
  } catch {
    return {
      reason: `${name} is not installed, or is empty: npm install ${name}; it is an optional dependency, which --omit=optional leaves out`,
    };
  }
  try {
    return { addon: require(file) as Addon };
  } catch (error) {
    return { reason: whyNotLoaded(file, error as NodeJS.ErrnoException) };
  }
}

function whyNotLoaded(file: string, { code, message }: NodeJS.ErrnoException): string {
  if (code === "ERR_DLOPEN_DISABLED" || code === "ERR_ACCESS_DENIED")
    return "addons are not allowed in this process: with --permission pass --allow-addons";
  const glibc = /version `(GLIBC_[\d.]+)' not found/.exec(message)?.[1];
  if (glibc) return `the addon needs ${glibc}, which this system lacks: use a newer distribution`;
  if (/ld-musl|__.*: symbol not found|libc\.musl/.test(message))
    return "the addon is for glibc, and this system has musl: use a distribution with glibc";
  const what = contentsOf(file);
  return what === undefined
    ? `the addon does not load: ${message}`
    : `the addon ${what}: remove node_modules and install again, on this machine`;
}

/** What is wrong with the file, if it shows at its beginning or its end. */
function contentsOf(file: string): string | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    return `cannot be read, ${(error as Error).message}`;
  }
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46) return "is no shared library for Linux";
  if (bytes.readUInt16LE(18) !== 0x3e) return "is for another processor";
  // The section headers come last.
  const end = Number(bytes.readBigUInt64LE(40)) + bytes.readUInt16LE(58) * bytes.readUInt16LE(60);
  return bytes.length < end ? `is cut off, ${bytes.length} bytes of ${end}` : undefined;
}
