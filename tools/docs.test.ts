// The site: its guides run as they stand, each one program, and it builds without a warning.
import { execFile } from "node:child_process";
import { globSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { examples, printed, promised } from "./examples.ts";
import { root } from "./test-needs.ts";

const guides = globSync("docs/guides/*.md", { cwd: root }).toSorted();

it("has guides", () => expect(guides.length).toBeGreaterThan(5));

it.each(guides)("%s runs, and prints what its comments say", (guide) => {
  const program = examples(guide, "js").join("\n");
  expect(promised(program).length).toBeGreaterThan(0);
  expect(printed(program).trim().split("\n")).toEqual(promised(program));
});

it("builds, every link in it leads somewhere, and every name that it mentions is documented", async () => {
  const out = mkdtempSync(join(tmpdir(), "fa-docs-"));
  try {
    const typedoc = join(root, "docs/node_modules/typedoc/bin/typedoc");
    await promisify(execFile)(process.execPath, [typedoc, "--treatWarningsAsErrors", "--out", out], {
      cwd: join(root, "docs"),
    });
    expect(globSync("**/*.html", { cwd: out }).length).toBeGreaterThan(guides.length);
  } finally {
    rmSync(out, { recursive: true });
  }
}, 120_000);
