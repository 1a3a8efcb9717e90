import { wasm } from "@fa/backend-wasm";
import { describeConformance } from "./suite.ts";

await describeConformance("wasm in a browser", wasm());
