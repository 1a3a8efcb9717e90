/** A file that measured choices are kept in. */
import { mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { SelectionStore } from "@fa/core";
import { replaceFile } from "./save.node.ts";

/** Made when something is first kept. A file that holds something else is left alone, and keeping fails with the reason. */
export function fileStore(path: string): SelectionStore {
  const read = async (): Promise<Record<string, unknown>> => {
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
      throw error;
    }
    const kept: unknown = parsed(text);
    if (typeof kept === "object" && kept !== null && !Array.isArray(kept)) return kept as Record<string, unknown>;
    throw new Error(`${path} holds something else`);
  };
  return {
    async getItem(key) {
      const item = (await read())[key];
      return typeof item === "string" ? item : null;
    },
    async setItem(key, value) {
      const kept = await read();
      await mkdir(dirname(path), { recursive: true });
      await replaceFile(path, `${JSON.stringify({ ...kept, [key]: value }, null, 2)}\n`);
    },
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
