// Examples in Markdown, run as they stand.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./test-needs.ts";

const FROM_SOURCES = ["--conditions=@fa/source", "--input-type=module-typescript"];

/** The fenced blocks of a language. */
export function examples(readme: string, language: string): string[] {
  const text = readFileSync(join(root, readme), "utf8");
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms"))].map(([, code]) => code);
}

/** What a program prints, run from the sources. */
export function printed(code: string): string {
  return execFileSync(process.execPath, FROM_SOURCES, { encoding: "utf8", cwd: root, input: code });
}

/** What the comments behind a program's `console.log` say that it prints, a line each. */
export function promised(code: string): string[] {
  return [...code.matchAll(/console\.log\(.*\); \/\/ (.*)$/gm)].map(([, comment]) => comment);
}
