import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Attention } from "@fa/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Check } from "../src/check.ts";
import { conformanceChecks, runCheck } from "../src/runner.ts";
import { Subject } from "../src/subject.ts";
import { FAULTS, type Fault } from "./faults.ts";

const CORE = fileURLToPath(new URL("../../core/src/", import.meta.url));
let folder: string;
let checks: Check[];

/** The reference back end of a copy of core with a fault in it, or with none. The checks keep to the sound core. */
async function planted(fault?: Fault): Promise<Attention> {
  const copy = mkdtempSync(join(folder, "core-"));
  cpSync(CORE, copy, { recursive: true });
  if (fault) {
    const path = join(copy, fault.file);
    const pieces = readFileSync(path, "utf8").split(fault.find);
    expect(pieces.length - 1, `"${fault.find}" must stand once in ${fault.file}`).toBe(1);
    writeFileSync(path, pieces.join(fault.replace));
  }
  const core = (await import(
    /* @vite-ignore */ pathToFileURL(join(copy, "index.ts")).href
  )) as typeof import("@fa/core");
  return core.createAttention({ backends: [core.reference()] });
}

/** The first check that fails on a back end, if any does. */
async function caughtBy(fa: Attention): Promise<string | undefined> {
  try {
    for (const check of checks) {
      const { status, name } = await runCheck(new Subject(fa), check);
      if (status === "failed") return name;
    }
    return undefined;
  } finally {
    await fa.dispose();
  }
}

describe("the suite catches planted faults", () => {
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "fa-faults-"));
    // The golden cases in half types find what they find in float32, at twice the time.
    const all = await conformanceChecks({ runs: 3 });
    checks = all.filter(({ name }) => !/^b?float16 golden/.test(name));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("and nothing where there is none", async () => {
    expect(await caughtBy(await planted())).toBeUndefined();
  });
  it.each(FAULTS)("$name", async (fault) => {
    expect(await caughtBy(await planted(fault)), "no check failed").toBeDefined();
  });
});
