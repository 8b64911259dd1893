"""The script: what is broken, in which order, and by what each step is known to be noticed and healed."""

import http.client

import api
import clusters
import history
import load

# How long the faults last that end by themselves, in seconds.
HANG_SECONDS = 10
STALL_SECONDS = 4
CUT_SECONDS = 4
# How long a killed node is away before what runs it starts it again.
AWAY_SECONDS = 2.0
# Longer than two election timeouts, so that the watchdog of the disk must act.
SYNC_DELAY = "2s"
# Files of a follower that are damaged in turn.
FILES = ("rocksdb", "wal")
# A node of which the files are damaged more often within an hour takes its disk for broken. It is wiped before that.
DAMAGED_MAX = 2
# A write to the smaller half is given this long to be refused.
REFUSAL_SECONDS = 1.0


def name(node):
    return f"node{node}"


def panic_store(stage, turn):
    node = stage.follower(turn) if turn % 2 == 0 else stage.leader()
    before = restarts(stage, node, "store")
    stage.begin(f"the store actor of {name(node)} panics")
    stage.inject(node, "actor_panic", component="store")
    stage.detected(nodes={node}, components={"store"}, seen=lambda: ailing(stage, node, "store", before))
    stage.back(f"{name(node)} reads and writes again", lambda: stage.serves(node))
    stage.actor_rebuilt(node, "store")
    stage.healed(by="rebuilt by the supervisor", from_node=node)


def hang_dispatcher(stage, turn):
    node = stage.leader() if turn % 2 == 0 else stage.follower(turn)
    before = restarts(stage, node, "dispatcher")
    stage.begin(f"the replication dispatcher of {name(node)} hangs")
    stage.inject(node, "actor_hang", component="dispatcher", duration=f"{HANG_SECONDS}s")
    stage.detected(nodes={node}, components={"dispatcher"}, seen=lambda: ailing(stage, node, "dispatcher", before))
    stage.back(f"{name(node)} takes writes again", lambda: stage.serves(node))
    stage.actor_rebuilt(node, "dispatcher")
    stage.healed(by="rebuilt by the supervisor", from_node=node)


def stall_disk(stage, turn):
    leader = stage.leader()
    stage.begin(f"the disk of {name(leader)}, the leader, stalls for {STALL_SECONDS} s", STALL_SECONDS)
    stage.inject(leader, "fsync_delay", delay=SYNC_DELAY, duration=f"{STALL_SECONDS}s")
    stage.detected(seen=lambda: other_leads(stage, leader))
    stage.back("writes go on elsewhere", lambda: other_leads(stage, leader) and stage.writes_go_on())
    stage.healed(by="leadership moved away from the slow disk")


def kill_two(stage, turn):
    leader, other = stage.leader(), stage.follower(turn)
    stage.begin(f"kill -9 of {name(leader)}, the leader, and {name(other)}", AWAY_SECONDS)
    stage.cluster.kill([leader, other], AWAY_SECONDS)
    rest = set(range(stage.cluster.nodes)) - {leader, other}
    stage.detected(nodes=rest, seen=lambda: other_leads(stage, leader))
    stage.back("writes go on with three", stage.writes_go_on)
    stage.healed(by="a new leader; both started again and caught up")


def cut_in_halves(stage, turn):
    leader, other = stage.leader(), stage.follower(turn)
    smaller = (leader, other)
    larger = [node for node in range(stage.cluster.nodes) if node not in smaller]
    title = f"the network is cut: {name(leader)}, the leader, and {name(other)} on one side"
    stage.begin(f"{title}, for {CUT_SECONDS} s", CUT_SECONDS)
    for a, b in ((a, b) for a in smaller for b in larger):
        stage.inject(a, "peer_drop", peer=name(b), duration=f"{CUT_SECONDS}s")
        stage.inject(b, "peer_drop", peer=name(a), duration=f"{CUT_SECONDS}s")
    stage.detected(nodes=set(larger), seen=lambda: other_leads(stage, leader, larger))
    stage.back("writes go on in the larger half", lambda: other_leads(stage, leader, larger) and stage.writes_go_on())
    refuses(stage, other)
    stage.healed(by="the larger half elected a leader; the smaller one caught up")


def corrupt_file(stage, turn):
    node, file = stage.follower(turn + 1, stage.cluster.wipeable), FILES[turn % len(FILES)]
    stage.damaged[node] += 1
    before, rebuilt = member_id(stage, node), restarts(stage, node, "integrity")
    stage.begin(f"bits flip in a file ({file}) of {name(node)}, a follower")
    stage.inject(node, "flip_bits", file=file)
    if file == "wal":
        # Nobody reads what is behind in the log but a node that starts.
        stage.cluster.kill([node], 0.0)

    def noticed():
        if file == "rocksdb":
            reads_all(stage, node)
        return gave_up(stage, node) or ailing(stage, node, "integrity", rebuilt) or renewed(stage, node, before)

    stage.detected(nodes={node}, components={"integrity"}, seen=noticed)
    stage.back(f"{name(node)} serves again", lambda: renewed(stage, node, before) and stage.serves(node))
    stage.healed(by="left quorum duty and was rebuilt from its peers under a new identity", from_node=node)


def wipe_node(stage, turn):
    followers = [node for node in stage.cluster.wipeable if node != stage.leader()]
    node = max(followers, key=lambda each: stage.damaged[each])
    if stage.damaged[node] < DAMAGED_MAX:
        node = stage.follower(turn + 2, stage.cluster.wipeable)
    stage.damaged[node] = 0
    before = member_id(stage, node)
    stage.begin(f"the disk of {name(node)} is wiped")
    stage.cluster.kill([node], 0.0, wiped=True)
    others = set(range(stage.cluster.nodes)) - {node}
    stage.detected(nodes=others, seen=lambda: unreachable(stage, node) or renewed(stage, node, before))
    stage.back(f"{name(node)} serves again", lambda: renewed(stage, node, before) and stage.serves(node))
    stage.healed(by="joined anew under its old name, took its old vote over")


STEPS = {
    "panic": panic_store,
    "hang": hang_dispatcher,
    "stall": stall_disk,
    "kill": kill_two,
    "cut": cut_in_halves,
    "corrupt": corrupt_file,
    "wipe": wipe_node,
}


def other_leads(stage, leader, among=None):
    """In words, once a node other than `leader` leads."""
    for node, status in enumerate(stage.watch.statuses()):
        if node != leader and (among is None or node in among) and status and status["node"]["state"] == "leader":
            return f"{name(node)} leads in place of {name(leader)}"
    return None


def component_of(stage, node, component):
    """What a node's status says about one of its components; empty when it says nothing."""
    status = stage.watch.statuses()[node]
    found = status["health"]["components"] if status else []
    return next((each for each in found if each["name"] == component), {})


def restarts(stage, node, component):
    return component_of(stage, node, component).get("restarts", 0)


def ailing(stage, node, component, before):
    """In words, once a component is unwell or was rebuilt."""
    found = component_of(stage, node, component)
    if found.get("state", "healthy") != "healthy":
        return f"{name(node)}: {component} is {found['state']}: {found['reason']}"
    return f"{name(node)}: {component} was rebuilt" if found.get("restarts", 0) > before else None


def gave_up(stage, node):
    """In words, once a node ended itself as unfit to serve."""
    found = any(ended == node and when >= stage.moment for when, ended in list(stage.cluster.gave_up))
    return f"{name(node)} ended itself" if found else None


def unreachable(stage, node):
    """In words, once the leader no longer reaches a node."""
    leader = stage.watch.leader()
    status = stage.watch.statuses()[leader] if leader is not None else None
    if status and any(member["name"] == name(node) and not member["reachable"] for member in status["cluster"]["members"]):
        return f"{name(leader)} no longer reaches {name(node)}"
    return None


def member_id(stage, node):
    """The id that the leader knows a node by; None without a leader."""
    leader = stage.watch.leader()
    status = stage.watch.statuses()[leader] if leader is not None else None
    members = status["cluster"]["members"] if status else []
    return next((member["id"] for member in members if member["name"] == name(node)), None)


def renewed(stage, node, before):
    """In words, once a node is a member under another id."""
    now = member_id(stage, node)
    return f"{name(node)} is member {now} now, it was {before}" if now is not None and now != before else None


def reads_all(stage, node):
    """Reads everything that a node has of the load. Whatever it answers is right: what it cannot read whole it does not serve."""
    try:
        for key, value in api.listing(stage.cluster.ports[node], load.PREFIX, "consistency=stale", REFUSAL_SECONDS):
            if value != history.value_of(key, stage.token):
                raise clusters.Failed(f"{name(node)} served {key} with a value that nobody wrote")
    except (OSError, http.client.HTTPException, ValueError):
        # Refused, cut short, or the node is gone: not served, which is what it is to do.
        return


def refuses(stage, node):
    """A node of the smaller half acknowledges nothing."""
    _, state, answer = stage.write(node, REFUSAL_SECONDS)
    if state == history.ACKNOWLEDGED:
        raise clusters.Failed(f"{name(node)} acknowledged a write without a majority")
    if answer:
        code = api.parsed(answer[1]).get("code", "")
        stage.view.say("service", f"{name(node)}, cut off, does not take a write: {answer[0]} {code}", "good")
