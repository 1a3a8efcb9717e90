import Table from "cli-table3";
import type { ConformanceReport } from "./runner.ts";

/** A table with a row for each capability, then every failure and refusal with its reason. */
export function formatReport({ backend, device, results, passed, failed, refused }: ConformanceReport): string {
  const table = new Table({
    head: ["capability", "passed", "failed", "refused", "seconds"],
    colAligns: ["left", "right", "right", "right", "right"],
    style: { head: [], border: [] },
    // No line between rows.
    chars: { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" },
  });
  for (const capability of new Set(results.map((result) => result.capability))) {
    const rows = results.filter((result) => result.capability === capability);
    const count = (status: string): number => rows.filter((result) => result.status === status).length;
    const seconds = rows.reduce((sum, { ms }) => sum + ms, 0) / 1000;
    table.push([capability, count("passed"), count("failed"), count("refused"), seconds.toFixed(1)]);
  }
  const details = results
    .filter(({ status }) => status !== "passed")
    .map(({ status, name, reason }) => `${status}  ${name}\n        ${reason}`);
  return [
    `${backend} (${device})`,
    table.toString(),
    ...details,
    `${passed} passed, ${failed} failed, ${refused} refused`,
  ].join("\n");
}
