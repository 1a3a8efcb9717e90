import type { Attention } from "@fa/core";
import { placeAttention } from "./attention-subject.ts";
import type { Case } from "./cases.ts";
import { placeModule } from "./module-subject.ts";
import type { Subject } from "./subject.ts";

export function place(fa: Attention, item: Case): Promise<Subject> {
  return item.kind === "attention" ? placeAttention(fa, item) : placeModule(fa, item.golden, item.facts.pass);
}
