/** `report`: result files in, one page out. */
import type { ReportOptions } from "./commands.node.ts";
import { reportPage } from "./report.ts";
import { readResults } from "./roofline.node.ts";
import { saveText } from "./save.node.ts";
import type { Terminal } from "./terminal.node.ts";

/** @returns the exit code */
export async function report({ files, out, json }: ReportOptions, terminal: Terminal): Promise<number> {
  const read = await Promise.all(files.map(readResults));
  await saveText(out, reportPage(read), "page", terminal);
  if (json !== undefined) {
    await saveText(
      json,
      `${JSON.stringify(
        read.map(({ file }) => file),
        null,
        2,
      )}\n`,
      "results of all files",
      terminal,
    );
  }
  return 0;
}
