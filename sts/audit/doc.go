// Package audit is the record of what the appliance granted and refused: an append-only log in a directory of
// segments, one JSON object a line, that answers an append only once the line is on the disk.
//
// # Format
//
// A segment is a file named by the index of its first entry, in 20 decimal digits, and ".jsonl":
// 00000000000000000000.jsonl. Entries are counted from 0 over all segments, without gaps, in the order of their
// lines. Entry i is the i-th line; nothing in the line repeats i.
//
// A line is one JSON object in the canonical form of RFC 8785 (JSON Canonicalization Scheme): keys sorted by their
// UTF-16 code units, no white space, the shortest form of each number, and in strings no escapes but those that JSON
// demands (so "<" stays "<"). Times are RFC 3339 in UTC with exactly six fractional digits. Invalid UTF-8 becomes
// U+FFFD. An integer among the claims beyond ±(2^53-1) is written as a string, as RFC 7493 section 2.2 advises. A line
// is at most MaxLine bytes and ends with one newline, which is not part of it; JSON escapes any newline within.
//
// The bytes of a line without its newline are one leaf of an RFC 6962 Merkle tree: the leaf hash of entry i is
// SHA-256(0x00 || line i). For that reason a line that was acknowledged is never changed, nor read and written anew.
//
// # Durability
//
// One goroutine writes. It takes every line that waits, makes one write(2) and one fdatasync(2) for all of them,
// and then answers all. An append that was answered survives a crash of the process and of the machine, as far
// as the disk tells the truth about its cache. An append that got an error may or may not be in the log, and counts as
// not being there: do not act upon it.
//
// Every Open starts a fresh segment (an empty one at the end is used): a file that an earlier process wrote is never
// appended to, so that a failed sync, of which only the process that saw it knew, needs no record of its own.
//
// # What it is not
//
// It is tamper-evident at most, and not tamper-proof: the files belong to whoever runs the daemon, and a directory by
// itself proves nothing about what that user removed. It knows nothing of HTTP, of GitHub or of trust policies; it does
// not decide what is worth logging; and it does not look for secrets in what it is given, so give it none.
package audit
