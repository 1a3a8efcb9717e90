// node tools/versions.ts: writes the version of each package.json into the src/version.ts beside it, where there is one.
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { root } from "./test-needs.ts";

const DECLARED = /VERSION = "([^"]*)"/;

/** Files that declare a version, with the one that package.json has. */
export function versions(): { file: string; text: string; declared: string; version: string }[] {
  return globSync("packages/*/src/version.ts", { cwd: root }).map((file) => {
    const manifest = join(root, dirname(file), "..", "package.json");
    const text = readFileSync(join(root, file), "utf8");
    const { version } = JSON.parse(readFileSync(manifest, "utf8")) as { version: string };
    return { file, text, declared: DECLARED.exec(text)?.[1] ?? "none", version };
  });
}

if (import.meta.main) {
  for (const { file, text, version } of versions()) {
    writeFileSync(join(root, file), text.replace(DECLARED, `VERSION = "${version}"`));
  }
}
