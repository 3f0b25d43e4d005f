// Package forward copies the audit log elsewhere: to systemd's journal on this machine (Journal), and to a collector
// of CloudEvents over HTTP (Events).
//
// The files are the record; these are copies. Each copy follows the log by reading its segments from where it stopped
// (audit.Cursor), so nothing waits for a copy: an entry is durable, and answered, before a copy sees it, and a copy that
// is stuck costs neither memory nor time elsewhere. How far it came is kept on disk (Cursors) and moved on only after
// the entries were taken. After a crash the last second's entries may therefore be copied again: each at least once,
// always in order, and each with its index, by which a reader tells a repetition and a gap.
package forward
