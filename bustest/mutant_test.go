package bustest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest/internal/refbus"
	"github.com/stretchr/testify/require"
)

// reference is the harness of the reference bus with its oddities or its bug.
func reference(cfg refbus.Config) Harness {
	if cfg.MaxPayload == 0 {
		cfg.MaxPayload = 100 << 10
	}
	h := Harness{
		Open: func(e *Env) (bus.Bus, error) {
			cfg := cfg
			cfg.Dir, cfg.Addr = e.Dir, e.Addr
			return refbus.Open(cfg, e.Options...)
		},
		MaxPayload: cfg.MaxPayload,
		Residue:    func(_ context.Context, b bus.Bus) (int, error) { return b.(interface{ Residue() int }).Residue(), nil },
		Tick:       cfg.Tick,
		Serve:      func(*Env) (Server, error) { return refbus.Serve(), nil },
		Settle:     20 * time.Millisecond,
	}
	for _, a := range Abilities() {
		switch {
		case cfg.Several && a == Locking, !cfg.Several && (a == Distributed || a == OneServer):
		case cfg.Volatile && (a == Durable || a == DurableIDs || a == CrashSafe || a == Locking):
		case cfg.NoHeaders && a == Headers:
		case cfg.NoStreams && (a == Streams || a == Durable || a == DurableIDs || a == CrashSafe || a == DurableGroups):
		case cfg.NoGroups && a == Groups, cfg.NoDurableGroups && a == DurableGroups:
		default:
			h.Claims = append(h.Claims, a)
		}
	}
	return h
}

// mutant is a way to break the reference bus and the check that must notice.
type mutant struct {
	bug, check string
	cfg        refbus.Config // what else the bus must be to have the bug
	child      bool          // it ends the process, or needs Run
	bubble     bool          // it is too early or too late by little: on virtual time
	said       string        // what must have been said, which slowness can't be taken for; of a child always
}

// several is a bus of which several are one system.
var several = refbus.Config{Several: true}

var mutants = []mutant{
	{bug: "corrupt", check: "RoundTrip"},
	{bug: "wrongSubject", check: "RoundTrip"},
	{bug: "shortSubjects", check: "RoundTrip"},
	{bug: "nilDropped", check: "EmptyPayload"},
	{bug: "heldNilDropped", check: "EmptyPayload"},
	{bug: "starMany", check: "StarTable"},
	{bug: "tailZero", check: "TailTable"},
	{bug: "prefix", check: "LiteralTable"},
	{bug: "noValidate", check: "BadSubject"},
	{bug: "longOK", check: "BadSubject"},
	{bug: "wildcardOK", check: "PublishWildcard"},
	{bug: "reservedOK", check: "ReservedSubject"},
	{bug: "inboxSeen", check: "ReservedUnseen"},
	{bug: "dupMatch", check: "OverlapOnce"},
	{bug: "midStarLiteral", check: "MatchModel"},

	{bug: "errNoSubs", check: "NoSubscribers"},
	{bug: "trunc", check: "AnyBytes"},
	{bug: "sizeFirst", check: "PublishOrderOfErrors"},
	{bug: "cancelStores", check: "PublishCancelled"},
	{bug: "unknownBare", check: "PublishCancelled"},
	{bug: "headersUncounted", check: "HeadersCount"},
	{bug: "slowNoStream", check: "OutsideStreams"},
	{bug: "dedupRace", check: "MessageIDAtOnce"},
	{bug: "idShared", check: "MessageIDPerStream"},
	{bug: "windowForever", check: "DuplicateWindow"},
	{bug: "windowShort", check: "DuplicateWindow", child: true, bubble: true, said: "was taken again within"},
	{bug: "expectRace", check: "ExpectAtOnce"},
	{bug: "expectEver", check: "ExpectNoneNow"},

	{bug: "asyncForgets", check: "AsyncOutcomes"},
	{bug: "asyncTwice", check: "AsyncOutcomes"},
	{bug: "asyncTwiceLater", check: "AsyncOutcomes"},
	{bug: "asyncAtOnce", check: "AsyncOutcomes"},
	{bug: "asyncReorders", check: "AsyncOrder"},
	{bug: "asyncReadsLate", check: "AsyncOrder"},
	{bug: "asyncUnheard", check: "AsyncUnheard"},
	{bug: "asyncEnds", check: "AsyncDone"},
	{bug: "asyncLeft", check: "AsyncClose"},

	{bug: "lateSub", check: "ReadyOnReturn"},
	{bug: "onlyFirst", check: "FanOut"},
	{bug: "dup", check: "NoSurplus"},
	{bug: "lateDup", check: "NoSurplus"},
	{bug: "noHeaders", check: "HeadersRoundTrip"},
	{bug: "statusDropped", check: "HeadersRoundTrip"},
	{bug: "badHeaderOK", check: "BadHeader"},
	{bug: "bigOK", check: "MaxPayload"},
	{bug: "heldLimitLower", check: "MaxPayload"},
	{bug: "precancelOK", check: "DoneContext"},
	{bug: "listHeedsNothing", check: "DoneContext"},
	{bug: "removeHeedsNothing", check: "DoneContext"},
	{bug: "removeGroupHeedsNothing", check: "DoneContext"},
	{bug: "healthHeedsNothing", check: "DoneContext"},
	{bug: "earlyTick", check: "Tick", cfg: refbus.Config{Tick: 10 * time.Millisecond}, child: true, said: "nothing before"},
	{bug: "tickedReplay", check: "Tick", cfg: refbus.Config{Tick: 10 * time.Millisecond}, child: true, said: "a replay took"},

	{bug: "lifo", check: "FIFO"},
	{bug: "goPerMsg", check: "FIFOPerPublisher"},
	{bug: "perSubjectQueue", check: "CrossSubject"},
	{bug: "perSubShuffle", check: "StreamOrder"},
	{bug: "perSubShuffle", check: "TotalOrder"},
	{bug: "parallelHandler", check: "HandlerSerial"},

	{bug: "causeLater", check: "Causal"},

	{bug: "boundedBurst", check: "Burst"},
	{bug: "lose1pc", check: "Burst"},
	{bug: "smallDefault", check: "DefaultBuffer"},
	{bug: "bytesUnbounded", check: "DefaultBuffer"},
	{bug: "racyMap", check: "Storm", child: true, said: "map"},
	{bug: "quadraticSub", check: "ManySubscriptions"},
	{bug: "fatSub", check: "ManySubscriptions", said: "KiB each at most"},
	{bug: "leakSubs", check: "Residue"},
	{bug: "leakMessages", check: "Residue"},
	{bug: "leakSubjects", check: "Residue"},
	{bug: "leakConsumer", check: "Residue"},
	{bug: "feedEach", check: "SharedFeed"},

	{bug: "aliasPub", check: "PublisherBuffer"},
	{bug: "roomToAppend", check: "KeepAndAppend"},
	{bug: "reuseBuffer", check: "KeepAndAppend"},
	{bug: "readMarks", check: "KeepAndAppend"},
	{bug: "serialFanout", check: "SlowHandlerAlone"},
	{bug: "handlerPool", check: "SlowHandlerAlone"},
	{bug: "blockPub", check: "SlowHandlerNoPublisher"},
	{bug: "silentDrop", check: "LossIsCounted"},
	{bug: "dropsUntold", check: "LossIsCounted"},
	{bug: "tickUnbounds", check: "BufferBounds", cfg: refbus.Config{Tick: 5 * time.Millisecond}},
	{bug: "bytesUnbounded", check: "BufferBounds"},
	{bug: "bigDropped", check: "BufferBounds"},
	{bug: "dropsCaptured", check: "SlowCatchesUp"},

	{bug: "panicKill", check: "PanicContained", child: true, said: "panic: on purpose"},
	{bug: "panicSilent", check: "PanicContained"},
	{bug: "panicEnds", check: "PanicContained"},
	{bug: "goexitEnds", check: "PanicContained"},
	{bug: "goexitSilent", check: "PanicContained"},
	{bug: "heldPanicEnds", check: "PanicContained"},
	{bug: "panicStopsReplay", check: "PanicContained"},
	{bug: "errorSwallowed", check: "HandlerError"},
	{bug: "errorEnds", check: "HookHarmsNobody"},
	{bug: "hookKill", check: "HookHarmsNobody", child: true, said: "panic: in the hook, on purpose"},
	{bug: "busHookKill", check: "HookHarmsNobody", child: true, said: "panic: in the hook, on purpose"},
	{bug: "ownHookEnds", check: "HookHarmsNobody"},
	{bug: "hookSilenced", check: "HookHarmsNobody"},
	{bug: "hookTwice", check: "HookOnce"},
	{bug: "bothHooks", check: "HookOnce"},
	{bug: "hookHoldsLock", check: "SlowHook"},
	{bug: "ownHookHoldsLock", check: "SlowHook"},
	{bug: "swallowDecode", check: "TypedDecode"},
	{bug: "noTrace", check: "TraceContext"},
	{bug: "contextKept", check: "HandlerContext"},
	{bug: "contextKeptOnChange", check: "HandlerContext"},
	{bug: "lockInHandler", check: "PublishInHandler"},
	{bug: "lockInHandler", check: "SubscribeInHandler"},
	{bug: "inHandlerWaits", check: "SubscribeInHandler"},
	{bug: "inHandlerOnlyNew", check: "SubscribeInHandler"},
	{bug: "changeWaits", check: "ChangeInHandler"},
	{bug: "selfFence", check: "UnsubscribeInHandler"},
	{bug: "doneEarly", check: "UnsubscribeInHandler"},
	{bug: "closeWaitsInHandler", check: "CloseInHandler"},
	{bug: "closeDoneEarly", check: "CloseInHandler"},

	{bug: "noFence", check: "Fence"},
	{bug: "unsubNothing", check: "Fence"},
	{bug: "unsubTwiceErr", check: "UnsubscribeTwice"},
	{bug: "removeByFunc", check: "OnlyItself"},
	{bug: "unsubNothing", check: "OnlyItself"},
	{bug: "ignoreUntil", check: "UntilEnds"},
	{bug: "keptAfterCancel", check: "SubscribeContext"},
	{bug: "leakGo", check: "NoLeak"},
	{bug: "negativeOK", check: "BadOptions"},
	{bug: "unsubWaits", check: "UnsubscribeDeadline"},
	{bug: "crossFence", check: "UnsubscribeEachOther"},
	{bug: "hangClose", check: "CloseUnblocks"},
	{bug: "unsubOutlivesClose", check: "CloseUnblocks"},

	{bug: "pubAfterClose", check: "AfterClose"},
	{bug: "subAfterClose", check: "AfterClose"},
	{bug: "appendAfterClose", check: "AfterClose"},
	{bug: "bareErr", check: "AfterClose"},
	{bug: "secondCloseEarly", check: "CloseTwice"},
	{bug: "doubleClosePanic", check: "CloseTwice"},
	{bug: "noCloseFence", check: "CloseFence"},
	{bug: "dropOnClose", check: "CloseFlushes"},
	{bug: "closeCutsReplay", check: "CloseFinishesReplay"},
	{bug: "closeRefusesHandlers", check: "CloseServesHandlers"},
	{bug: "endedForgotten", check: "CloseWaitsForEnded"},
	{bug: "closeSendsOnClosed", check: "CloseUnderFire"},
	{bug: "closeWaitsForever", check: "CloseStuckHandler"},
	{bug: "stuckUnsaid", check: "CloseStuckHandler"},
	{bug: "stuckKeepsLock", check: "CloseStuckHandler"},
	{bug: "oneStuckNamed", check: "CloseStuckHandler"},
	{bug: "stuckLeaks", check: "CloseStuckHandler"},
	{bug: "stuckGoesOn", check: "CloseStuckHandler"},
	{bug: "closeWaitsLong", check: "CloseStuckHandler", child: true, bubble: true, said: "waited 10"},
	{bug: "closeLosesLate", check: "CloseUnderFireKept"},
	{bug: "closeRefusesStored", check: "CloseUnderFireKept"},

	{bug: "recreate", check: "EnsureTwice"},
	{bug: "noUpdate", check: "EnsureUpdates"},
	{bug: "releaseDrops", check: "EnsureUpdates"},
	{bug: "negOK", check: "EnsureInvalid"},
	{bug: "overlapOK", check: "EnsureOverlap"},
	{bug: "ensureRace", check: "EnsureAtOnce"},
	{bug: "halfEnsure", check: "EnsureAllOrNothing"},
	{bug: "ensureDeletes", check: "EnsureLeavesAlone"},
	{bug: "sharedLimit", check: "LimitsSeparate"},
	{bug: "discardUnlogged", check: "DiscardLogged"},
	{bug: "discardMiscounted", check: "DiscardLogged"},
	{bug: "changesLater", check: "CaptureChanges"},
	{bug: "changeUntold", check: "CaptureChanges"},
	{bug: "removeSpares", check: "RemoveStream"},
	{bug: "removeUnknownOK", check: "RemoveStream"},
	{bug: "epochKept", check: "RemoveStream"},
	{bug: "listMiscounts", check: "StreamList"},
	{bug: "listAliases", check: "StreamList"},
	{bug: "partUpdate", check: "StreamList"},
	{bug: "healthLies", check: "Health"},
	{bug: "deafWhenCaptured", check: "CaptureChanges"},
	{bug: "capturedTwice", check: "CaptureReturns"},
	{bug: "evictNew", check: "MaxMsgs"},
	{bug: "subjectLimitIgnored", check: "MaxMsgsPerSubject"},
	{bug: "bytesIgnored", check: "MaxBytes"},
	{bug: "bigAccepted", check: "MaxBytes"},
	{bug: "overheadForgotten", check: "MaxBytes"},
	{bug: "neverExpire", check: "MaxAge"},
	{bug: "ageLater", check: "MaxAge", child: true, bubble: true, said: "still there"},
	{bug: "ageDouble", check: "MaxAge", child: true, bubble: true, said: "still there"},
	{bug: "ageHalf", check: "MaxAge"},
	{bug: "emptyGapSilent", check: "MaxAge"},
	{bug: "silentGap", check: "MaxAge"},
	{bug: "subjectsSpared", check: "LowerLimits"},
	{bug: "noUpdate", check: "LowerLimits"},
	{bug: "updateForgotten", check: "ReopenChanged"},
	{bug: "limitsUndone", check: "ReopenChanged"},

	{bug: "appendForgetsHeaders", check: "Append"},
	{bug: "appendAnywhere", check: "AppendAtEnd"},
	{bug: "appendRace", check: "AppendAtEnd"},
	{bug: "appendGoesOn", check: "AppendStops"},
	{bug: "appendUncaptured", check: "AppendStops"},

	{bug: "asyncStore", check: "ReadYourWrites"},
	{bug: "replayUnmarked", check: "Receipt"},
	{bug: "timeOfDelivery", check: "Receipt"},
	{bug: "noDedup", check: "MessageID"},
	{bug: "untoldDuplicate", check: "MessageID"},
	{bug: "duplicateAtEnd", check: "MessageID"},
	{bug: "idOfRefused", check: "MessageIDRefused"},
	{bug: "idOfDiscarded", check: "MessageIDDiscarded"},
	{bug: "expectIgnored", check: "Expect"},
	{bug: "conflictStores", check: "Expect"},
	{bug: "optionsIgnored", check: "StreamOptions"},

	{bug: "liveOnly", check: "ReplayAllThenLive"},
	{bug: "offByOne", check: "LastN"},
	{bug: "inclusive", check: "AfterCursor"},
	{bug: "epochIgnored", check: "AfterOtherEpoch"},
	{bug: "sinceAll", check: "SinceTime"},
	{bug: "zeroTimeIsNow", check: "SinceTime"},
	{bug: "allPerSubject", check: "LastPerSubject"},
	{bug: "replayAllSubjects", check: "ReplayFilter"},
	{bug: "earlyReturn", check: "SubscribeWaits"},
	{bug: "backgroundIgnored", check: "SubscribeWaits"},
	{bug: "liveAwaited", check: "SubscribeWaits"},
	{bug: "markerEarly", check: "CaughtUp"},
	{bug: "liveAwaited", check: "CaughtUp"},
	{bug: "startIgnored", check: "StartUncaptured"},
	{bug: "streamsUnnamed", check: "StartUncaptured"},

	{bug: "idleTimeout", check: "EmptyHistory"},
	{bug: "replayHoldsLock", check: "SlowReplay"},
	{bug: "aliasStore", check: "ReplayIsolation"},
	{bug: "roomyReplay", check: "ReplayIsolation"},

	{bug: "gap", check: "HandoverNoGap"},
	{bug: "dupJoin", check: "HandoverNoGap"},
	{bug: "liveFirst", check: "HandoverNoGap"},
	{bug: "gapOfLast", check: "HandoverEachStart"},
	{bug: "gapOfSnapshot", check: "HandoverEachStart"},
	{bug: "liveFirst", check: "HandoverHistoryFirst"},

	{bug: "spanTwice", check: "SpanningPattern"},
	{bug: "refusedDelivered", check: "SpanningPattern"},
	{bug: "spanDropsCaptured", check: "SpanningSlow"},

	{bug: "silentGap", check: "LiveGapTold"},
	{bug: "slowSpared", check: "LimitsWin"},
	{bug: "lastBecomesAll", check: "TrimDuringSnapshot"},
	{bug: "trimMiddle", check: "TrimDuringReplay"},
	{bug: "waitsForGone", check: "TrimDuringReplay"},
	{bug: "bytesSilentInReplay", check: "TrimDuringReplay"},
	{bug: "ageSilentInReplay", check: "TrimDuringReplay"},
	{bug: "silentGap", check: "ResumeGapTold"},
	{bug: "emptyGapSilent", check: "ResumeGapTold"},
	{bug: "newestSkipped", check: "NewestOfSubject"},

	{bug: "groupAll", check: "GroupShares"},
	{bug: "durableAll", check: "GroupShares"},
	{bug: "groupNameForgotten", check: "GroupsApart"},
	{bug: "groupPatternForgotten", check: "GroupsApart"},
	{bug: "groupStuckMember", check: "GroupFreeMember"},
	{bug: "groupLosesOnLeave", check: "GroupLeave"},
	{bug: "groupLosesOnLeave", check: "GroupChurn"},
	{bug: "groupRemembers", check: "GroupForgets"},
	{bug: "groupStartsOver", check: "GroupForgets"},
	{bug: "groupRedelivers", check: "GroupError"},
	{bug: "groupNameUnchecked", check: "GroupRefused"},
	{bug: "groupStartIgnored", check: "GroupRefused"},
	{bug: "selfFence", check: "GroupEndings"},
	{bug: "groupIgnoresUntil", check: "GroupEndings"},
	{bug: "groupDropsOnClose", check: "GroupClose"},
	{bug: "closeWaitsInHandler", check: "GroupClose"},
	{bug: "dropsUntold", check: "GroupLoss"},
	{bug: "silentGap", check: "GroupGap"},
	{bug: "groupDeafWhenCaptured", check: "GroupStreamChanged"},
	{bug: "changeUntold", check: "GroupStreamChanged"},
	{bug: "attemptEverywhere", check: "AttemptZero"},

	{bug: "neverRedelivers", check: "Redelivery"},
	{bug: "panicIsDone", check: "Redelivery"},
	{bug: "goexitIsDone", check: "Redelivery"},
	{bug: "redeliversAtOnce", check: "Redelivery"},
	{bug: "redeliversLate", check: "Redelivery", child: true, bubble: true, said: "later than its wait says"},
	{bug: "attemptStuck", check: "Redelivery"},
	{bug: "errorSwallowed", check: "Redelivery"},
	{bug: "zeroIsDefault", check: "RedeliveryForEver"},
	{bug: "zeroNeedsDead", check: "RedeliveryForEver"},
	{bug: "deadLost", check: "DeadLetter"},
	{bug: "deadHeadless", check: "DeadLetter"},
	{bug: "deadErrorRaw", check: "DeadLetter"},
	{bug: "deadErrorWhole", check: "DeadLetter"},
	{bug: "deadGoesOn", check: "DeadLetter"},
	{bug: "tenAttempts", check: "DeadLetter", child: true, bubble: true, said: "want 5"},
	{bug: "doneBeforeDead", check: "DeadBeforeDone"},
	{bug: "deadUnneeded", check: "DeadStreamMissing"},
	{bug: "deadInItself", check: "DeadStreamMissing"},
	{bug: "durableUncaptured", check: "DurableGroupCaptured"},
	{bug: "conflictIgnored", check: "DurableGroupConflict"},
	{bug: "conflictForgotten", check: "DurableGroupConflict"},
	{bug: "positionForgotten", check: "DurableGroupPosition"},
	{bug: "durableStartIgnored", check: "DurableGroupStart"},
	{bug: "startsOver", check: "DurableGroupStart"},
	{bug: "lastPerSubjectInGroup", check: "DurableGroupStart"},
	{bug: "groupWaits", check: "DurableGroupStart"},
	{bug: "cutShortCounts", check: "CutShort"},
	{bug: "repetitionForgotten", check: "CutShort"},
	{bug: "positionNotStored", check: "DurableGroupReopen"},
	{bug: "doneNotStored", check: "DurableGroupReopen"},
	{bug: "doneBeforeHandled", check: "DurableGroupReopen"},
	{bug: "removeKeeps", check: "RemoveGroup"},
	{bug: "removeLeavesMembers", check: "RemoveGroup"},
	{bug: "positionOutlivesStream", check: "GroupStreamRemoved"},

	{bug: "strangers", check: "Elsewhere", cfg: several},
	{bug: "lateSub", check: "Elsewhere", cfg: several},
	{bug: "lateElsewhere", check: "ReadyElsewhere", cfg: several},
	{bug: "orderApart", check: "StreamOrderElsewhere", cfg: several},
	{bug: "gap", check: "HandoverElsewhere", cfg: several},
	{bug: "tableStale", check: "StreamsElsewhere", cfg: several},
	{bug: "changeUntoldElsewhere", check: "StreamsElsewhere", cfg: several},
	{bug: "removeUntoldElsewhere", check: "StreamsElsewhere", cfg: several},
	{bug: "addUntoldElsewhere", check: "StreamsElsewhere", cfg: several},
	{bug: "releaseUntoldElsewhere", check: "StreamsElsewhere", cfg: several},
	{bug: "changeLateElsewhere", check: "StreamsElsewhere", cfg: several},
	{bug: "ensureRace", check: "EnsureElsewhere", cfg: several},
	{bug: "expectPerProcess", check: "ExpectElsewhere", cfg: several},
	{bug: "idPerProcess", check: "MessageIDElsewhere", cfg: several},
	{bug: "groupPerProcess", check: "GroupElsewhere", cfg: several},
	{bug: "groupLosesOnLeave", check: "GroupElsewhere", cfg: several},
	{bug: "groupOfFirst", check: "GroupFreeElsewhere", cfg: several},
	{bug: "groupStuckMember", check: "GroupFreeElsewhere", cfg: several},
	{bug: "conflictPerProcess", check: "DurableGroupElsewhere", cfg: several},
	{bug: "groupPerProcess", check: "DurableGroupElsewhere", cfg: several},
	{bug: "removeUntoldElsewhere", check: "DurableGroupElsewhere", cfg: several},
	{bug: "closeEndsAll", check: "CloseElsewhere", cfg: several},

	{bug: "noPersist", check: "Reopen"},
	{bug: "idsForgotten", check: "MessageIDReopened"},
	{bug: "idsOfHeld", check: "MessageIDOutlives"},
	{bug: "seqReset", check: "CursorGrows"},
	{bug: "fileLeft", check: "FilesClosed"},
	{bug: "noLock", check: "SecondOpen"},
	{bug: "panicOnGarbage", check: "Damaged", child: true, said: "panic: damaged at byte"},
	{bug: "garbageServed", check: "Damaged", child: true, said: "a message was changed"},
	{bug: "endLost", check: "Damaged", child: true, said: "which was given before"},
	{bug: "ackBeforeWrite", check: "Kill", child: true, said: "acknowledged before"},
	{bug: "idsForgotten", check: "Kill", child: true, said: "was stored again"},
	{bug: "resumeRepeats", check: "KillResume", child: true, said: "should be"},
	{bug: "doneNotStored", check: "GroupKill", child: true, said: "came again"},
	{bug: "doneBeforeHandled", check: "GroupKill", child: true, said: "all of"},
	{bug: "lockInProcess", check: "LockedElsewhere", child: true, said: "want ErrLocked"},

	{bug: "cutUntold", check: "CutResumes"},
	{bug: "lossOnReconnect", check: "CutResumes"},
	{bug: "lossOnReconnect", check: "GroupResumes"},
	{bug: "repeatOnReconnect", check: "CutResumes"},
	{bug: "reorderOnReconnect", check: "CutResumes"},
	{bug: "downIsNil", check: "CutResumes"},
	{bug: "noDedup", check: "CutResumes"},
	{bug: "retryReorder", check: "CutResumes"},
	{bug: "lossyRestart", check: "RestartResumes"},
	{bug: "faultBare", check: "FaultOutcomes"},
	{bug: "faultDenied", check: "FaultOutcomes"},
	{bug: "ignoreDeadline", check: "FrozenDeadline"},
	{bug: "removeHeedsNothing", check: "FrozenDeadline"},
	{bug: "removeGroupHeedsNothing", check: "FrozenDeadline"},
	{bug: "retryDoubles", check: "FrozenDeadline"},
	{bug: "healthBlind", check: "HealthOutage"},
	{bug: "healthWaits", check: "HealthOutage"},
	{bug: "asyncUnbounded", check: "AsyncBounded"},
	{bug: "closeWaitsForServer", check: "CloseWithoutServer"},
	{bug: "callsOutliveClose", check: "CloseWithoutServer"},

	{bug: "payloadInErr", check: "ErrorText"},
	{bug: "payloadInTooLarge", check: "ErrorText"},
	{bug: "bareText", check: "ErrorText"},
	{bug: "headersIgnored", check: "NoHeaders", cfg: refbus.Config{NoHeaders: true}},
	{bug: "streamsIgnored", check: "NoStreams", cfg: refbus.Config{NoStreams: true}},
	{bug: "groupIgnored", check: "NoGroups", cfg: refbus.Config{NoGroups: true}},
	{bug: "groupIgnored", check: "NoDurableGroups", cfg: refbus.Config{NoDurableGroups: true}},
	{bug: "unsupportedUnnamed", check: "NoHeaders", cfg: refbus.Config{NoHeaders: true}},
	{bug: "unsupportedUnnamed", check: "NoStreams", cfg: refbus.Config{NoStreams: true}},
	{bug: "unsupportedUnnamed", check: "NoGroups", cfg: refbus.Config{NoGroups: true}},
	{bug: "unsupportedUnnamed", check: "NoDurableGroups", cfg: refbus.Config{NoDurableGroups: true}},
	{bug: "epochKept", check: "NoDurable", cfg: refbus.Config{Volatile: true}},
}

const (
	// noBug is the bug of a bus that has none.
	noBug = "none"
	// mutantPatience is short, since what catches a mutant is often that it doesn't answer. In a bubble it takes no
	// time, and what a mutant must be seen to wait for is longer.
	mutantPatience, bubblePatience = time.Second, 4 * time.Minute
	maxMutantPatience              = 4 * time.Minute
	// mutantTries: on a machine that is busy enough it is the scheduler's choice whether some bugs show.
	mutantTries    = 5
	mutantVariable = "BUSTEST_MUTANT"
)

// busy are the checks that work rather than wait: side by side with others they would take long.
var busy = []string{
	"AsyncBounded", "AsyncClose", "AsyncDone", "AsyncOrder", "AsyncOutcomes", "Burst", "CloseFlushes", "CloseUnderFireKept",
	"FIFOPerPublisher", "GroupChurn", "MatchModel", "Residue", "SlowHandlerAlone", "TotalOrder",
}

// trial is one run of a mutant's check.
type trial struct {
	Mutant   int  // where it stands in the table, for a child
	Control  bool // on the bus without the bug
	Patience time.Duration
}

// outcome is how a trial ended.
type outcome struct {
	passed, caught bool // neither: the check failed and didn't say what it must
	line           string
}

func (m mutant) harness(t trial) Harness {
	cfg := m.cfg
	cfg.Bug = m.bug
	if t.Control {
		cfg.Bug = noBug
	}
	h := reference(cfg)
	h.Match = regexp.MustCompile("^" + m.check + "$")
	h.Patience = t.Patience
	h.Settle = defaultSettle // what a mutant does late must be seen on a busy machine, too
	h.Bubble = cfg.Tick > 0 || m.bubble
	return h
}

func TestMutants_areCaughtByTheirCheck(t *testing.T) {
	catches := map[string]bool{}
	caught, lines := make([]bool, len(mutants)), make([]string, len(mutants))
	dir := t.TempDir() // not all live to remove their own
	var alone, few, many []func()
	for i, m := range mutants {
		at := slices.IndexFunc(Checks(), func(c Check) bool { return c.Name == m.check })
		require.GreaterOrEqual(t, at, 0, "no check %s", m.check)
		require.True(t, !m.child || m.said != "", "%s, %s: a child fails for many reasons", m.bug, m.check)
		catches[m.check] = true
		patience := mutantPatience
		switch {
		case m.bubble:
			patience = bubblePatience
		case m.said != "" && !m.child:
			patience *= 8
		case Checks()[at].alone:
			patience *= 16 // it passes in a quarter of that also under the race detector
		case slices.Contains(busy, m.check):
			patience *= 2
		}
		hunt := func() {
			run := func(t trial) outcome { t.Mutant = i; return m.run(dir, t) }
			if m.said != "" && !m.child {
				o := run(trial{Patience: patience})
				caught[i], lines[i] = o.caught, o.line
				return
			}
			caught[i], lines[i] = hunt(patience, run)
		}
		switch {
		case Checks()[at].alone:
			alone = append(alone, hunt)
		case slices.Contains(busy, m.check):
			few = append(few, hunt)
		default:
			many = append(many, hunt)
		}
	}
	atOnce(1, alone)
	atOnce(3, few)
	atOnce(16, many) // most of them wait
	survived := 0
	for i, m := range mutants {
		t.Logf("%-20s %-24s %s", m.bug, m.check, lines[i])
		if !caught[i] {
			survived++
			t.Errorf("%s survives %s: %s", m.bug, m.check, lines[i])
		}
	}
	for _, check := range Checks() {
		if !catches[check.Name] {
			t.Errorf("%s has no mutant to catch", check.Name)
		}
	}
	t.Logf("mutants: %d caught, %d survived", len(mutants)-survived, survived)
}

// atOnce calls all fs, n at a time.
func atOnce(n int, fs []func()) {
	var wg sync.WaitGroup
	room := make(chan struct{}, n)
	for _, f := range fs {
		wg.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			f()
		})
	}
	wg.Wait()
}

// hunt reports whether the check catches a mutant, and how. That it fails isn't enough, since a bus that is only slow
// fails it, too: the bus without the bug has to pass in a quarter of the patience, before and after. Where it doesn't,
// the patience is too short for this machine as it is now.
func hunt(patience time.Duration, run func(trial) outcome) (caught bool, line string) {
	for try := 1; try <= mutantTries; {
		o := run(trial{Control: true, Patience: patience / 4})
		if o.passed {
			if o = run(trial{Patience: patience}); !o.caught {
				line = o.line
				try++
				continue
			}
			caught, line = true, o.line
			o = run(trial{Control: true, Patience: patience / 4})
		}
		switch {
		case o.passed && try > 1:
			return caught, fmt.Sprintf("%s, in try %d", line, try)
		case o.passed:
			return caught, line
		case patience >= maxMutantPatience:
			return false, "without the bug: " + o.line
		}
		patience *= 4
	}
	return false, line
}

// A bus that takes its time isn't caught, however long it takes.
func TestHunt_slownessIsNoBug(t *testing.T) {
	for _, takes := range []time.Duration{0, time.Second / 5, time.Second / 2, 2 * time.Second, 30 * time.Second, time.Hour} {
		bus := func(slowness time.Duration) func(trial) outcome {
			return func(t trial) outcome {
				d := takes
				if !t.Control {
					d += slowness
				}
				return outcome{passed: d <= t.Patience, caught: d > t.Patience}
			}
		}
		caught, line := hunt(mutantPatience, bus(2*takes)) // which is the noise of a machine
		require.False(t, caught, "%v: %s", takes, line)
		caught, line = hunt(mutantPatience, bus(24*time.Hour))
		require.Equal(t, takes < time.Hour, caught, "%v: %s", takes, line)
	}
	// It is slow for a while only.
	runs := 0
	caught, _ := hunt(mutantPatience, func(t trial) outcome {
		runs++
		slow := runs == 2 || runs == 3
		return outcome{passed: !slow, caught: slow}
	})
	require.False(t, caught)
}

func (m mutant) run(dir string, t trial) outcome {
	if !m.child {
		h := m.harness(t)
		h.TempDir = dir
		res, ok := Examine(context.Background(), h).Result(m.check)
		line := fmt.Sprintf("%s in %v", res.Status, res.Duration.Round(time.Millisecond))
		if t.Control {
			line += "\n" + res.Reason
		}
		return outcome{passed: ok && res.Status == Passed, caught: ok && res.Status == Failed && strings.Contains(res.Reason, m.said), line: line}
	}
	which, err := json.Marshal(t)
	if err != nil {
		return outcome{line: err.Error()}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMutantInChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), mutantVariable+"="+string(which), "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	o := outcome{passed: err == nil, caught: err != nil && strings.Contains(string(out), m.said), line: fmt.Sprintf("in a child: %v", err)}
	if !o.passed && !o.caught {
		o.line += "\n" + string(out)
	}
	return o
}

// TestMutantInChild fails in the child that TestMutants starts; on its own it does
// nothing.
func TestMutantInChild(t *testing.T) {
	which := os.Getenv(mutantVariable)
	if which == "" {
		t.Skip("it is for the child that TestMutants starts")
	}
	var its trial
	require.NoError(t, json.Unmarshal([]byte(which), &its))
	Run(t, mutants[its.Mutant].harness(its))
}
