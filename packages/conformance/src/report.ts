import type { ConformanceReport } from "./runner.ts";

const COLUMNS = ["capability", "passed", "failed", "refused", "seconds"];

/** A table with a row for each capability, then every failure and refusal with its reason. */
export function formatReport({ backend, device, results, passed, failed, refused }: ConformanceReport): string {
  const rows = [...new Set(results.map(({ capability }) => capability))].map((capability) => {
    const members = results.filter((result) => result.capability === capability);
    const count = (status: string): string => String(members.filter((result) => result.status === status).length);
    const seconds = members.reduce((sum, { ms }) => sum + ms, 0) / 1000;
    return [capability, count("passed"), count("failed"), count("refused"), seconds.toFixed(1)];
  });
  const details = results
    .filter(({ status }) => status !== "passed")
    .map(({ status, name, reason }) => `${status}  ${name}\n        ${reason}`);
  return [
    `${backend} (${device})`,
    ...table([COLUMNS, ...rows]),
    ...details,
    `${passed} passed, ${failed} failed, ${refused} refused`,
  ].join("\n");
}

/** Lines with columns of one width each: the first to the left, numbers to the right; a rule under the head. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = COLUMNS.map((_, n) => Math.max(...rows.map((row) => row[n].length)));
  const [head, ...lines] = rows.map((row) =>
    row.map((cell, n) => (n === 0 ? cell.padEnd(widths[n]) : cell.padStart(widths[n]))).join("  "),
  );
  return [head, "-".repeat(head.length), ...lines];
}
