/** Finds the addon, and says in words why there is none. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
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
  // Looked at first: a library that is cut off does not fail to load, it ends the process.
  const wrong = whatIsWrong(file);
  if (wrong !== undefined)
    return { reason: `the addon ${wrong}: remove node_modules and install again, on this machine` };
  try {
    return { addon: require(file) as Addon };
  } catch (error) {
    return { reason: whyNotLoaded(error as NodeJS.ErrnoException) };
  }
}

function whyNotLoaded({ code, message }: NodeJS.ErrnoException): string {
  if (code === "ERR_DLOPEN_DISABLED" || code === "ERR_ACCESS_DENIED")
    return "addons are not allowed in this process: with --permission pass --allow-addons";
  const glibc = /version `(GLIBC_[\d.]+)' not found/.exec(message)?.[1];
  if (glibc) return `the addon needs ${glibc}, which this system lacks: use a newer distribution`;
  if (/symbol not found|libc\.musl/.test(message))
    return "the addon is for glibc, and this system has musl: use a distribution with glibc";
  return `the addon does not load: ${message}`;
}

const ELF_HEADER_BYTES = 64;
const ELF_MAGIC = 0x7f454c46;
const X86_64 = 0x3e;

/** What is wrong with a file that should be a library for Linux on x86-64, as far as its header and its length tell. */
function whatIsWrong(file: string): string | undefined {
  const header = Buffer.alloc(ELF_HEADER_BYTES);
  let length: number;
  let fileBytes: number;
  try {
    const handle = openSync(file, "r");
    try {
      length = readSync(handle, header, 0, ELF_HEADER_BYTES, 0);
      fileBytes = fstatSync(handle).size;
    } finally {
      closeSync(handle);
    }
  } catch (error) {
    return `cannot be read, ${(error as Error).message}`;
  }
  if (length < ELF_HEADER_BYTES || header.readUInt32BE(0) !== ELF_MAGIC) return "is no shared library for Linux";
  if (header.readUInt16LE(18) !== X86_64) return "is for another processor";
  // The section headers come last: where they begin, and how many of what size they are.
  const end = Number(header.readBigUInt64LE(40)) + header.readUInt16LE(58) * header.readUInt16LE(60);
  return fileBytes < end ? `is cut off, ${fileBytes} bytes of ${end}` : undefined;
}
