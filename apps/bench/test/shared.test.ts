import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { importsOf } from "../../../tools/check-imports.ts";

const SRC = join(import.meta.dirname, "../src");
const OF_NODE = /\.node\.ts$|^cli\.ts$|^readme\.ts$/;
/** What a page can load: the packages of this repository and the plotting library. The table is the terminal's. */
const FOR_PAGES = /^@fa\/|^echarts\/|^\.\/[\w-]+\.ts$/;

const shared = globSync("*.ts", { cwd: SRC }).filter((file) => !OF_NODE.test(file) && file !== "table.ts");

test.each(shared)("%s runs in a page: it imports nothing of Node or the terminal", (file) => {
  const source = readFileSync(join(SRC, file), "utf8");
  for (const { specifier } of importsOf(file, source)) expect(specifier).toMatch(FOR_PAGES);
  expect(source).not.toMatch(/\b(process|Buffer|import\.meta)\b/);
});
