import { styleText } from "node:util";
import { SingleBar } from "cli-progress";
import type { TableStyle } from "./table.ts";

/** Where the app writes, and whether people watch it being written. */
export interface Terminal {
  readonly isTTY: boolean;
  /** Results: one or more whole lines. */
  print(text: string): void;
  /** Complaints, on the other stream. */
  complain(text: string): void;
}

export const TERMINAL: Terminal = {
  isTTY: process.stdout.isTTY,
  print: (text) => void process.stdout.write(`${text}\n`),
  complain: (text) => void process.stderr.write(`${text}\n`),
};

/** Colours where people watch. */
export function styleOf({ isTTY }: Terminal): TableStyle {
  if (!isTTY) return {};
  return { alarm: (text) => styleText(["red", "bold"], text), quiet: (text) => styleText("dim", text) };
}

/** Tells how far a long run is: a bar that vanishes on a terminal, a line a step elsewhere. */
export interface Progress {
  begin(title: string): void;
  end(line: string): void;
  /** Clears the bar and gives the cursor back. Calling it again does nothing. */
  stop(): void;
}

export function progress(terminal: Terminal, total: number): Progress {
  if (!terminal.isTTY) return { begin() {}, end: (line) => terminal.print(line), stop() {} };
  const bar = new SingleBar({
    format: "{bar} {value}/{total}  {title}  {eta_formatted} left",
    stream: process.stdout,
    barsize: 30,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    clearOnComplete: true,
    etaBuffer: 4,
  });
  bar.start(total, 0, { title: "" });
  return {
    begin: (title) => {
      bar.update({ title });
      bar.render();
    },
    end: () => bar.increment(),
    stop: () => bar.stop(),
  };
}
