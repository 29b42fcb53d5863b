// Package verify checks Sluice with tools that the module itself shall not depend on.
//
// The histories of SharedState are checked for linearizability with porcupine, which
// implements the algorithm of A. Horn and D. Kroening, "Faster linearizability checking
// via P-compositionality" (FORTE 2015).
package verify
