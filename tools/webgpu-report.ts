// What webgpu-verify and browser-verify write and print.

import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import type { CheckResult } from "@fa/conformance";
import { root } from "./test-needs.ts";

/** What became of the checks on one tier. */
export interface TierOutcome {
  readonly tier: string;
  /** Only checks whose names contain this. */
  readonly only?: string | undefined;
  readonly device: string;
  readonly results: readonly CheckResult[];
  /** Parts that gave no report, and why. */
  readonly missing: readonly { readonly part: number; readonly reason: string }[];
  readonly processSeconds: number;
}

export interface Verification {
  /** Of the machine's GPU, or of what plays it. */
  readonly name: string;
  readonly driver: string;
  /** Whose WebGPU it is. */
  readonly webgpu: string;
  readonly runtime: string;
  readonly seconds: number;
  readonly tiers: readonly TierOutcome[];
  /** Left out, a file of apps/bench/results/conformance named after the machine. */
  readonly out: string | undefined;
}

/** The first line that a command prints; undefined when it fails or is not there. */
export function says(command: string, ...args: string[]): string | undefined {
  const { status, stdout } = spawnSync(command, args, { cwd: root, encoding: "utf8" });
  return status === 0 ? stdout.trim().split("\n")[0] : undefined;
}

/** What is verified: as it was when that began. */
const commit =
  process.env["FA_COMMIT"] ?? says("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") ?? "unknown";

const brief = ({ name, capability, reason }: CheckResult) => ({ name, capability, reason });

/** Writes the file, prints a line a tier and what failed; returns the exit status. Where no check ran there is no file. */
export function settle({ name, driver, webgpu, runtime, seconds, tiers, out }: Verification): number {
  if (tiers.every(({ results }) => results.length === 0)) {
    const reasons = new Set(tiers.flatMap(({ missing }) => missing.map(({ reason }) => reason)));
    console.error(`no check ran: ${[...reasons].join("; ") || "none matches"}`);
    return 1;
  }
  const platform = `${process.platform}-${process.arch}`;
  const report = {
    schema: "fa-webgpu-conformance",
    version: 1,
    machine: { name, driver, webgpu, cpu: cpus()[0]?.model.trim() ?? "", platform, runtime },
    date: new Date().toISOString(),
    commit,
    seconds,
    tiers: tiers.map(({ tier, only, device, results, missing, processSeconds }) => {
      const of = (status: CheckResult["status"]): CheckResult[] => results.filter((result) => result.status === status);
      const [passed, failed, refused] = [of("passed").length, of("failed"), of("refused")];
      const [failures, refusals] = [failed.map(brief), refused.map(brief)];
      const counts = { passed, failed: failed.length, refused: refused.length };
      return { tier, only, device, ...counts, failures, refusals, missing, processSeconds };
    }),
  };
  const slug = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
  const file = out ?? join(root, "apps/bench/results/conformance", `${platform}-${slug}-webgpu.json`);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(report, undefined, 2)}\n`);
  for (const { tier, device, passed, failed, refused, failures, missing } of report.tiers) {
    console.log(
      `${tier}: ${passed} passed, ${failed} failed, ${refused} refused, ${missing.length} parts missing (${device})`,
    );
    for (const failure of failures) console.log(`  ${failure.name}\n    ${failure.reason}`);
  }
  console.log(`${seconds} s: ${file}`);
  return report.tiers.some(({ failed, missing }) => failed + missing.length > 0) ? 1 : 0;
}
