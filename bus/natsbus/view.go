package natsbus

import (
	"fmt"
	"slices"
	"strings"
)

// view is what is known of the replicas of a stream at a moment.
type view struct {
	name string
	info *streamInfo
	lead string // who leads, and since when
	me   string
	all  map[string]standing // of the holders that have answered
}

// need is how many replicas make more than half.
func (v *view) need() int { return len(v.info.holders())/2 + 1 }

// mayLose reports whether so many crashed holders may have lost what was acknowledged: the others can't choose a leader by themselves,
// and those that never had it, or have lost it, can.
func (v *view) mayLose(crashed int) bool {
	n := len(v.info.holders())
	return n-crashed < v.need() && crashed >= 2*v.need()-n
}

// lossy reports whether something may be lost.
func (v *view) lossy() bool {
	suspected := 0
	for _, x := range v.all {
		if x.Crash != "" {
			suspected++
		}
	}
	return v.mayLose(suspected)
}

// safe reports whether nothing is lost, whatever those do that don't answer.
func (v *view) safe() bool {
	trusted := 0
	for _, x := range v.all {
		if x.Crash == "" && x.Holds {
			trusted++
		}
	}
	return !v.mayLose(len(v.info.holders()) - trusted)
}

// misled reports whether somebody may have read what isn't the stream's.
func (v *view) misled() bool {
	for _, x := range v.all {
		if x.Misled {
			return true
		}
	}
	return false
}

// missed reports whether a member was away when the stream began its last epoch.
func (v *view) missed(id string) bool {
	return slices.Contains(strings.Fields(v.info.Config.Metadata[absentKey]), id)
}

// better is who is to lead instead of this member, which suspects its replica: with one that was what an earlier leader had, or if nothing
// is lost, with one that isn't suspected. Empty: nobody.
func (v *view) better(p *suspect) (best string) {
	if p == nil || p.Sound != "" && (!p.Differs || p.Replaced) && !v.safe() {
		return ""
	}
	for _, holder := range v.info.holders() {
		x, there := v.all[holder.name]
		good := x.Lead != "" || x.Crash == "" && v.safe() || p.Differs && !x.Differs
		if there && x.Holds && holder.name != v.me && good && (best == "" || x.Last > v.all[best].Last) {
			best = holder.name
		}
	}
	return best
}

// lead says who leads the stream, and since when.
func (i *streamInfo) lead() string {
	return fmt.Sprint(i.Cluster.Leader, "@", i.Cluster.LeaderSince.UnixNano())
}

// holder is a member that has a replica.
type holder struct {
	name string
	id   string // empty: it is the leader
}

// holders are sorted by name. A member that isn't known since the leader's server was started has a name that nobody has.
func (i *streamInfo) holders() []holder {
	all := []holder{{name: i.Cluster.Leader}}
	for _, r := range i.Cluster.Replicas {
		all = append(all, holder{r.Name, r.ID})
	}
	slices.SortFunc(all, func(a, b holder) int { return strings.Compare(a.name, b.name) })
	return all
}

// crashOf is which crash of a member a stream's metadata knows of.
func crashOf(metadata map[string]string, member string) string {
	for _, entry := range strings.Fields(metadata[soundKey]) {
		if name, id, _ := strings.Cut(entry, "="); name == member {
			return id
		}
	}
	return ""
}
