package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/check"
)

// Quota is what the rates of one limiter have in common.
type Quota struct {
	Name     string // of the limiter
	Scope    Scope
	Refuse   bool
	Upstream bool
	MaxKeys  int
	Foreign  admit.Limiter // shared with other code, instead of rates; comparable; nil without one
	Fleet    any           // keeps the buckets; comparable; nil without one
	Stock    int64         // of each rate, with Fleet; zero is for Fleet to say
	Reserve  int64         // likewise
}

// completeFleet says what is wrong with what q says of its Fleet, if its rates are these.
func completeFleet[R asRate](field string, q *Quota, rates []R) error {
	if q.Fleet == nil {
		if q.Stock != 0 || q.Reserve != 0 {
			return fmt.Errorf("%s.Stock is %d and Reserve %d without Fleet: must be zero", field, q.Stock, q.Reserve)
		}
		return nil
	}
	if q.Foreign != nil {
		return fmt.Errorf("%s.Fleet and Limiter are both set: must be one of them", field)
	}
	for i, r := range rates {
		switch burst := Rate(r).Burst; {
		case q.Stock < 0 || q.Stock > burst:
			return fmt.Errorf("%s.Stock is %d: must be zero (a twentieth of Burst) or from 1 to Burst, which is %d in Rates[%d]", field, q.Stock, burst, i)
		case q.Reserve < 0 || q.Reserve >= burst:
			return fmt.Errorf("%s.Reserve is %d: must be from 0 to less than Burst, which is %d in Rates[%d]", field, q.Reserve, burst, i)
		}
	}
	return nil
}

// fleetRate is the keeper of a rate that a Fleet has. The machine is locked.
type fleetRate interface {
	Change(m *admit.Machine, now, stock, reserve int64)
}

// CompleteQuota fills in the defaults of q, and answers a copy of its rates with theirs.
func CompleteQuota[R asRate](field string, q *Quota, rates []R) (_ []R, err error) {
	if err := Named(field, &q.Name, "rate", &q.Scope, Global); err != nil {
		return nil, err
	}
	if err := Keys(field+".MaxKeys", &q.MaxKeys); err != nil {
		return nil, err
	}
	switch {
	case q.Foreign == nil && len(rates) == 0:
		return nil, fmt.Errorf("%s.Rates is empty: must have at least one rate, or Limiter", field)
	case q.Foreign != nil && len(rates) > 0:
		return nil, fmt.Errorf("%s.Rates and Limiter are both set: must be one of them", field)
	case q.Foreign != nil && !q.Scope.OneKey():
		return nil, fmt.Errorf("%s.Scope is %v with Limiter: must be Global, ForTool or ForType", field, q.Scope)
	}
	if rates, _, err = CompleteRates(field+".Rates", rates); err != nil {
		return nil, err
	}
	return rates, completeFleet(field, q, rates)
}

// QuotaLimits is the constraints of q, which is complete: one for each of rates, or of the shared limiter.
func QuotaLimits[R asRate](q Quota, rates []R) (list []Limit) {
	for _, r := range rates {
		b, _ := Rate(r).Bucket() // CompleteQuota has made it before
		list = append(list, Limit{q.Class(Rate(r), &b), q.Scope})
	}
	if q.Foreign != nil {
		list = append(list, Limit{q.Shared(q.Foreign), q.Scope})
	}
	return list
}

// QuotaChange is the change of a limiter of one quota to another.
type QuotaChange[R asRate] struct {
	Was, To Quota
	Old     []R // the rates of Was
	Rates   []R // and of To
}

// Fits says why there cannot be such a change, in the fields that begin with field.
func (x *QuotaChange[R]) Fits(field string) error {
	if err := check.SameLength(field+".Rates", len(x.Rates), len(x.Old)); err != nil {
		return err
	}
	fixed, was, to := "", &x.Was, &x.To
	switch {
	case to.Name != was.Name:
		fixed = "Name"
	case !to.Scope.Same(was.Scope):
		fixed = "Scope"
	case to.Upstream != was.Upstream:
		fixed = "Upstream"
	case to.Foreign != was.Foreign:
		fixed = "Limiter"
	case to.Fleet != was.Fleet:
		fixed = "Fleet"
	}
	if fixed != "" {
		return fmt.Errorf("%s.%s changes: it cannot change", field, fixed)
	}
	for i, j := range Match(x.Old, x.Rates) {
		if j < 0 {
			return fmt.Errorf("%s.Rates[%d].Unit is %q: cannot change from %q", field, i, Rate(x.Rates[i]).Unit, Rate(x.Old[i]).Unit)
		}
	}
	return nil
}

// Apply has the machine m follow, and tells changed of each rate that does. Of the limits at says which is
// that of each old rate; the answer says it of the rates.
func (x *QuotaChange[R]) Apply(m *admit.Machine, now int64, limits []Limit, at []int, changed func(name, from, to string)) []int {
	list := make([]int, len(x.Rates))
	for i, from := range Match(x.Old, x.Rates) {
		list[i] = at[from]
		k, r, o := limits[at[from]].Class, Rate(x.Rates[i]), Rate(x.Old[from])
		m.SetRefuse(k, x.To.Refuse)
		m.SetMaxKeys(now, k, x.To.Scope.TableSize(x.To.MaxKeys))
		if r != o {
			b, _ := r.Bucket() // CompleteQuota has made it before
			m.SetRate(now, k, &b)
			name := k.Name
			k.Name = x.To.RateName(r)
			changed(name, o.String(), r.String())
		}
		if k.Stock != nil && (r != o || x.To.Stock != x.Was.Stock || x.To.Reserve != x.Was.Reserve) {
			k.Stock.Keeper.(fleetRate).Change(m, now, x.To.Stock, x.To.Reserve)
		}
	}
	return list
}

// Class is the constraint of one rate, whose bucket is b.
func (q Quota) Class(r Rate, b *bucket.Rate) *admit.Class {
	k := q.class(admit.Tokens, q.RateName(r))
	k.Unit, k.Rate, k.MaxKeys = r.Unit, b, q.Scope.TableSize(q.MaxKeys)
	return k
}

// RateName is what the constraint of r is called.
func (q Quota) RateName(r Rate) string { return r.named(Label("rate", q.Name)) }

// Shared is the constraint of a limiter that other code uses too.
func (q Quota) Shared(l admit.Limiter) *admit.Class {
	k := q.class(admit.Foreign, Label("rate", q.Name)+" shared limiter")
	k.Foreign = l
	return k
}

func (q Quota) class(kind admit.Kind, name string) *admit.Class {
	k := &admit.Class{Name: name, Kind: kind, Refuse: q.Refuse, Upstream: q.Upstream}
	k.Rank, k.ByPlan = q.Scope.place()
	return k
}

// Rate is N units per Per; its fields are those of the root's Rate.
type Rate struct {
	N     int64
	Per   time.Duration
	Burst int64
	Unit  string // empty counts calls
}

// String is the rate as it stands in events: "90000 tokens per minute, burst 90000".
func (r Rate) String() string { return fmt.Sprintf("%d%s, burst %d", r.N, r.named(""), r.Burst) }

// named says what a rate counts, as providers write it: "tokens per minute".
func (r Rate) named(prefix string) string {
	unit := r.Unit
	if unit == "" {
		unit = "calls"
	}
	per := ""
	switch r.Per {
	case time.Second:
		per = "second"
	case time.Minute:
		per = "minute"
	case time.Hour:
		per = "hour"
	case 24 * time.Hour:
		per = "day"
	default:
		per = r.Per.String()
		for _, zero := range []string{"m0s", "h0m"} { // 5m0s is 5m, and 2h0m is 2h
			if strings.HasSuffix(per, zero) {
				per = per[:len(per)-2]
			}
		}
	}
	return prefix + " " + unit + " per " + per
}

// Bucket is r as the machine has it.
func (r Rate) Bucket() (bucket.Rate, error) { return bucket.NewRate(r.N, int64(r.Per), r.Burst) }

// asRate is a type with the fields of a Rate.
type asRate interface {
	~struct {
		N     int64
		Per   time.Duration
		Burst int64
		Unit  string
	}
}

// CompleteRates is a copy of rates with the defaults filled in, and their buckets.
func CompleteRates[R asRate](field string, rates []R) ([]R, []bucket.Rate, error) {
	rates = slices.Clone(rates)
	var buckets []bucket.Rate
	for i, given := range rates {
		r, at := Rate(given), fmt.Sprintf("%s[%d]", field, i)
		b, err := r.complete(at)
		if err != nil {
			return nil, nil, err
		}
		for j, o := range rates[:i] {
			if o := Rate(o); o.Per == r.Per && o.Unit == r.Unit {
				return nil, nil, fmt.Errorf("%s has the Per and Unit of [%d]: must differ in one", at, j)
			}
		}
		rates[i], buckets = R(r), append(buckets, b)
	}
	return rates, buckets, nil
}

// complete fills in the defaults of the rate in that field.
func (r *Rate) complete(field string) (bucket.Rate, error) {
	switch {
	case r.N < 1:
		return bucket.Rate{}, fmt.Errorf("%s.N is %d: must be at least 1", field, r.N)
	case r.Per < 0:
		return bucket.Rate{}, fmt.Errorf("%s.Per is %v: must be zero (one second) or positive", field, r.Per)
	case r.Burst < 0:
		return bucket.Rate{}, fmt.Errorf("%s.Burst is %d: must be zero (N) or positive", field, r.Burst)
	}
	if err := check.Unit(field+".Per", r.Per); err != nil {
		return bucket.Rate{}, err
	}
	if err := check.Name(field+".Unit", r.Unit); err != nil {
		return bucket.Rate{}, err
	}
	r.Per, r.Burst = cmp.Or(r.Per, time.Second), cmp.Or(r.Burst, r.N)
	b, err := r.Bucket()
	if err != nil {
		return b, fmt.Errorf("%s.%w", field, err)
	}
	return b, nil
}

// Match finds for each of rates the one of old that it goes on as: that of its Unit and Per,
// else one of its Unit, else none (-1).
func Match[R asRate](old, rates []R) []int {
	from, taken := make([]int, len(rates)), make([]bool, len(old))
	for i := range from {
		from[i] = -1
	}
	for _, exactly := range []bool{true, false} {
		for i, r := range rates {
			for j, o := range old {
				r, o := Rate(r), Rate(o)
				if from[i] < 0 && !taken[j] && r.Unit == o.Unit && (r.Per == o.Per || !exactly) {
					from[i], taken[j] = j, true
				}
			}
		}
	}
	return from
}
