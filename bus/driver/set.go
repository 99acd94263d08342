package driver

// set is an unordered set whose members know their places, so that a crowd comes and goes without hashing.
type set[T interface{ spot() *int }] struct {
	all []T // to be read, under the lock of its owner
}

// add adds v, which is in no other set of its kind.
func (x *set[T]) add(v T) {
	x.all = append(x.all, v)
	*v.spot() = len(x.all)
}

// remove removes v, if it is there.
func (x *set[T]) remove(v T) {
	at := *v.spot()
	if at == 0 {
		return
	}
	end := len(x.all) - 1
	last := x.all[end]
	x.all[at-1], *last.spot() = last, at
	clear(x.all[end:])
	x.all = x.all[:end]
	*v.spot() = 0
}
