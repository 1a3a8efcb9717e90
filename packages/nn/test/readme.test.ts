// The README's snippets run as they stand, one after another in one scope, and print what their comments say.

import { readFileSync } from "node:fs";
import * as core from "@fa/core";
import * as auto from "@fa/core/auto";
import { expect, test } from "vitest";
import * as nn from "../src/index.ts";
import { goldenFile } from "./support.ts";

const MODULES: Readonly<Record<string, object>> = {
  "@fa/core": core,
  "@fa/core/auto": auto,
  "@fa/nn": nn,
  "node:fs/promises": { readFile: async (name: string) => goldenFile(name) },
};

test("the README's snippets run and print what they say", async () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const code = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, snippet]) => snippet).join("\n");
  const said = [...code.matchAll(/console\.log\(.*\); \/\/ (.*)$/gm)].map(([, comment]) => comment);
  expect(said.length).toBeGreaterThan(0);
  const body = code.replaceAll(/^import (\{.*\}) from ("[^"]+");$/gm, "const $1 = modules[$2];");
  const AsyncFunction = async function () {}.constructor as new (
    ...args: string[]
  ) => (...args: unknown[]) => Promise<void>;
  const printed: string[] = [];
  await new AsyncFunction("modules", "console", body)(MODULES, {
    log: (value: unknown) => printed.push(JSON.stringify(value)),
  });
  expect(printed).toEqual(said);
});
