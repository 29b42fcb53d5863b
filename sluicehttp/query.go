package sluicehttp

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// query is what a viewer asks for.
type query struct {
	view string
	text string // searched for
	tool string
	n    int // rows at most
	from int // rows before

	gate, key string // what is to be changed
	done      bool   // it has been
}

const (
	standardRows = 50
	maxRows      = 1000
	maxSearched  = 3 * maxText // bytes, for the 256 characters that the page lets one type
)

// queryOf reads a query, and says what is wrong with it.
func queryOf(view string, v url.Values) (q query, err error) {
	q = query{view: view, text: strings.TrimSpace(v.Get("q")), tool: v.Get("tool"), n: standardRows,
		gate: v.Get("gate"), key: v.Get("key"), done: v.Get("done") != ""}
	if len(q.text) > maxSearched || len(q.tool) > maxText {
		return q, fmt.Errorf("q may have %d bytes, and tool %d", maxSearched, maxText)
	}
	if s := v.Get("n"); s != "" {
		if q.n, err = strconv.Atoi(s); err != nil || q.n < 1 || q.n > maxRows {
			return q, fmt.Errorf("n must be a number from 1 to %d", maxRows)
		}
	}
	if s := v.Get("from"); s != "" {
		if q.from, err = strconv.Atoi(s); err != nil || q.from < 0 {
			return q, errors.New("from must be a number")
		}
	}
	return q, nil
}

// values is q as it stands in an address.
func (q query) values() url.Values {
	v := url.Values{}
	for name, s := range map[string]string{"q": q.text, "tool": q.tool} {
		if s != "" {
			v.Set(name, s)
		}
	}
	if q.n != standardRows {
		v.Set("n", strconv.Itoa(q.n))
	}
	if q.from > 0 {
		v.Set("from", strconv.Itoa(q.from))
	}
	return v
}

// href is the address of view, and of its form ext, with what q asks for.
func (q query) href(view, ext string) string {
	if ext == "" && view == "overview" {
		view = "./"
	}
	if s := q.values().Encode(); s != "" {
		return view + ext + "?" + s
	}
	return view + ext
}

// at is q for the rows from that one on.
func (q query) at(from int) query {
	q.from = max(0, from)
	return q
}

// stream is where q's view tells of changes.
func (q query) stream() string {
	v := q.values()
	v.Set("view", q.view)
	return "stream?" + v.Encode()
}

// matches reports whether one of texts, as it is shown, has what is searched for, whatever the case.
func (q query) matches(texts ...string) bool {
	if q.text == "" {
		return true
	}
	want := strings.ToLower(shown(q.text))
	for _, s := range texts {
		if strings.Contains(strings.ToLower(shown(s)), want) {
			return true
		}
	}
	return false
}

// listing is a list in JSON.
type listing[T any] struct {
	At       string `json:"at"`
	Total    int    `json:"total"`
	Matching int    `json:"matching"`
	From     int    `json:"from"`
	Rows     []T    `json:"rows"`
}

// pick is the part of list that q asks for, and of how many that match it.
func pick[T any](q query, at string, list []T, texts func(*T) []string) listing[T] {
	l := listing[T]{At: at, Total: len(list), From: q.from, Rows: []T{}}
	for i := range list {
		if q.text != "" && !q.matches(texts(&list[i])...) {
			continue
		}
		if l.Matching >= q.from && len(l.Rows) < q.n {
			l.Rows = append(l.Rows, list[i])
		}
		l.Matching++
	}
	return l
}

// pagedTable is a table of a list, with the way to what it leaves out.
func pagedTable[T any](q query, l listing[T], t table) table {
	t.Total, t.Shown = l.Total, len(l.Rows)
	switch {
	case l.Total == 0:
		t.Note = t.Empty
	case l.Matching == 0:
		t.Note = fmt.Sprintf("None of %s matches.", number(l.Total))
	case len(l.Rows) == 0:
		t.Note = fmt.Sprintf("There are no more rows than %s.", number(l.Matching))
	default:
		t.Note = fmt.Sprintf("%s to %s of %s", number(l.From+1), number(l.From+len(l.Rows)), number(l.Matching))
		if l.Matching < l.Total {
			t.Note += fmt.Sprintf(" that match, %s in all", number(l.Total))
		}
	}
	if q.from > 0 {
		t.Back = q.at(min(q.from, l.Matching)-q.n).href(q.view, "")
	}
	if next := q.from + len(l.Rows); next < l.Matching && len(l.Rows) > 0 {
		t.Next = q.at(next).href(q.view, "")
	}
	t.ID = cmp.Or(t.ID, q.view)
	return t
}
