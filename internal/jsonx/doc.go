// Package jsonx holds what several packages need to know of JSON, once: how a text, a time
// and a length of time are written so that they can stand in a log or on a terminal without
// harm; where a number, a string or a word of a document ends; and which fields of a struct
// encoding/json reads and writes.
//
// It keeps nothing, locks nothing and calls no foreign code. Whoever reads whole documents
// (internal/strictjson along a type, internal/payload into bounded room) brings the grammar.
package jsonx
