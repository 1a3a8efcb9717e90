import { reference } from "@fa/core";
import { describeConformance } from "./suite.ts";

await describeConformance("reference in a browser", reference(), { runs: 2 });
