"""A simulated population of users whose survival, retention and patience are known, as records.

How long a session lasts is drawn from a Weibull distribution; whether its user leaves after a turn
depends on nothing but whether the first token was slow; whether a user is there in a week after the
first depends on nothing but `retention`. A report over the records must find these figures again.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

from chainlit_otel.catalog import RECORD_SCHEMA

Record = dict[str, Any]

START = datetime(2026, 9, 7, tzinfo=timezone.utc)  # a Monday
CLIENTS = ("webapp",) * 8 + ("copilot",) * 2
PROFILES = ("fast", "fast", "careful", None)
TOOLS = (("search", 0.4, 0.05), ("database", 0.1, 0.01), ("browser", 4.0, 0.2))
MODELS = (("small", 1e-7), ("big", 5e-6), ("local", None))
_HOURS = [
    (5 if day < 5 else 2) * (4 if 8 <= hour < 20 else 1) for day in range(7) for hour in range(24)
]
SLOW = 4.0  # seconds to the first token from which on a turn was slow


@dataclass(frozen=True)
class Population:
    """Who comes, and what they do.

    Args:
        seed: Of the random numbers.
        sessions: How many sessions there are.
        weeks: For how long.
        hours_short: How long before the end of the last week the last record is written.
        shape: Of the Weibull distribution of the length of a session.
        scale: Its scale, in seconds.
        silent: Share of sessions whose user never writes.
        slow: Share of turns that are slow.
        leaves: Share of turns after which the user leaves, if the first token was fast.
        leaves_slow: The same, if it was slow.
        retention: Share of the users who are there in a week after their first.
        signed_in: Whether users have a hash.
        grace: Seconds after which a session whose socket is gone ends.
        failing: Share of turns that fail, by version of the service.
        instances: How many processes there are.
    """

    seed: int = 1
    sessions: int = 1000
    weeks: int = 8
    hours_short: float = 57.0  # Friday, in the afternoon
    shape: float = 0.7
    scale: float = 600.0
    silent: float = 0.2
    slow: float = 0.2
    leaves: float = 0.2
    leaves_slow: float = 0.4
    retention: float = 0.4
    signed_in: bool = True
    grace: float = 3600.0
    failing: tuple[float, ...] = (0.03, 0.05)
    instances: int = 2

    @property
    def end(self) -> datetime:
        """When the last record could be written."""
        return START + timedelta(weeks=self.weeks, hours=-self.hours_short)

    def survival(self, seconds: float) -> float:
        """Share of sessions that last longer than this."""
        return math.exp(-((seconds / self.scale) ** self.shape))

    def quantile(self, share: float) -> float:
        """Seconds than which this share of sessions is shorter."""
        return float(self.scale * (-math.log(1 - share)) ** (1 / self.shape))

    def records(self) -> Iterator[Record]:
        """Yield all records that were written until the end, those of a session together."""
        rng = random.Random(self.seed)
        cohorts: list[list[str]] = []
        number = 0
        for week in range(self.weeks):
            there = [user for cohort in cohorts for user in cohort if rng.random() < self.retention]
            count = self.sessions * (week + 1) // self.weeks - self.sessions * week // self.weeks
            cohorts.append([_hash(f"{self.seed} user {week} {n}") for n in range(count // 8 + 1)])
            there += cohorts[-1]
            # Whoever is there comes once at least, if there are as many sessions.
            users = (there + [rng.choice(there) for _ in range(count)])[:count]
            rng.shuffle(users)
            hours = rng.choices(range(7 * 24), _HOURS, k=count)
            for hour, user in zip(hours, users, strict=True):
                start = START + timedelta(weeks=week, hours=hour, seconds=rng.random() * 3600)
                if start < self.end:
                    yield from self._session(rng, number, start, user)
                number += 1

    def _session(
        self, rng: random.Random, number: int, start: datetime, user: str
    ) -> Iterator[Record]:
        instance = number % self.instances
        version = int((start - START) / (self.end - START) * len(self.failing))
        common: Record = {
            "schema": RECORD_SCHEMA,
            "service_name": "chat",
            "service_version": f"1.{version}.0",
            "service_instance_id": f"instance-{version}-{instance}",
        }
        session: Record = {"session_id": _hash(f"{self.seed} {number}")}
        about: Record = {"chainlit_client_type": rng.choice(CLIENTS)}
        if self.signed_in:
            about["user_hash"] = user
        if (profile := rng.choice(PROFILES)) is not None:
            about["chainlit_chat_profile"] = profile
        thread = {"gen_ai_conversation_id": f"thread-{number}"}
        opened: Record = {
            **session,
            "chainlit_session_type": "websocket",
            "chainlit_session_origin": "thread_resume" if rng.random() < 0.1 else "new",
            **about,
        }
        yield {"time": rfc3339(start), "kind": "session.start", **common, **opened}
        duration = round(rng.weibullvariate(self.scale, self.shape), 3)
        turns = list(self._turns(rng, self.failing[version]))
        counts = {"ok": 0, "error": 0, "cancelled": 0}
        good = bad = undelivered = 0
        for n, turn in enumerate(turns, 1):
            asked = start + timedelta(seconds=duration * n / (len(turns) + 1))
            over = asked + timedelta(seconds=turn["chainlit_turn_duration"])
            trace = _hash(f"{self.seed} {number} {n}") * 2
            of_turn = {**session, "chainlit_turn_number": n, "trace_id": trace}
            if over > self.end:
                break
            counts[turn["chainlit_outcome"]] += 1
            undelivered += turn["chainlit_turn_undelivered"]
            turn = {"chainlit_turn_start": rfc3339(asked), **turn, **thread}
            head = {"time": rfc3339(over), "kind": "turn", **common, **of_turn}
            yield {**head, "span_id": trace[:16], **about, **turn}
            when = rfc3339(over + timedelta(seconds=1))
            if rng.random() < 0.05:
                values = ["positive" if rng.random() < 0.7 else "negative"]
                message = _hash(f"{self.seed} message {number} {n}")
                # Some change their mind; not by chance, so that all else stays the same.
                values += {"0": ["deleted"], "1": ["positive"], "2": ["negative"]}.get(
                    message[0], []
                )
                good, bad = good + (values[-1] == "positive"), bad + (values[-1] == "negative")
                for later, value in enumerate(values, 1):
                    given = {
                        "chainlit_feedback_message": message,
                        "chainlit_feedback_value": value,
                        "chainlit_feedback_has_comment": bad > 0,
                    }
                    given_at = rfc3339(over + timedelta(seconds=later))
                    head = {"time": given_at, "kind": "feedback", **common, **of_turn}
                    yield {**head, **given, **about}
            if rng.random() < 0.05:
                score: Record = {
                    "gen_ai_evaluation_name": "relevance",
                    "gen_ai_evaluation_score_value": round(rng.gauss(0.7, 0.1), 3),
                }
                yield {"time": when, "kind": "score", **common, **of_turn, **score, **about}
        reason = "cleared" if rng.random() < 0.3 else "timeout"
        end = start + timedelta(seconds=duration + (self.grace if reason == "timeout" else 0))
        if end > self.end:
            return
        ended: Record = {
            "chainlit_session_start": rfc3339(start),
            "chainlit_session_duration": duration,
            "chainlit_session_connected": duration,
            "chainlit_session_end_reason": reason,
            "chainlit_session_turns_started": len(turns),
            **{f"chainlit_session_turns_{outcome}": n for outcome, n in counts.items()},
            "chainlit_session_reconnects": 0,
            "chainlit_session_undelivered": undelivered,
            "chainlit_session_feedback_positive": good,
            "chainlit_session_feedback_negative": bad,
            "chainlit_connection_close_reason": "transport_close",
        }
        if turns:
            first = round(duration / (len(turns) + 1), 3)
            ended |= {"chainlit_session_time_to_first_turn": first, **thread}
        yield {"time": rfc3339(end), "kind": "session.end", **common, **opened, **ended}

    def _turns(self, rng: random.Random, failing: float) -> Iterator[Record]:
        """Yield the turns of a session: its user leaves by chance, and rather after a slow one."""
        if rng.random() < self.silent:
            return
        while True:
            slow = rng.random() < self.slow
            first = round(rng.uniform(SLOW, 4 * SLOW) if slow else rng.uniform(0.2, SLOW / 2), 3)
            chance = rng.random()
            outcome = (
                "error" if chance < failing else "cancelled" if chance < failing + 0.02 else "ok"
            )
            tools = []
            for name, mean, fails in TOOLS:
                if rng.random() < 0.15:
                    wrong = rng.random() < fails
                    length = round(rng.expovariate(1 / mean), 3)
                    tools.append(
                        {"name": name, "duration": length, "outcome": "error" if wrong else "ok"}
                    )
            turn: Record = {
                "chainlit_turn_source": "edit" if rng.random() < 0.05 else "message",
                "chainlit_turn_duration": round(first + rng.expovariate(1 / 3), 3),
                "chainlit_turn_time_to_first_token": first,
                "chainlit_turn_chunks": rng.randrange(1, 200),
                "chainlit_outcome": outcome,
                "chainlit_turn_steps": len(tools),
                "chainlit_turn_input_size": rng.randrange(1, 400),
                "chainlit_turn_output_size": rng.randrange(1, 4000),
                "chainlit_turn_undelivered": rng.randrange(1, 20) if rng.random() < 0.02 else 0,
                "chainlit_turn_data_layer_errors": 0,
            }
            if tools:
                turn["chainlit_turn_tools"] = tools
            # By numbers of their own, so that the rest is as it would be without.
            turn |= _used(random.Random(f"{first} {turn['chainlit_turn_chunks']}"))
            if outcome == "error":
                turn["error_type"] = rng.choice(("TimeoutError", "RateLimitError"))
                turn["chainlit_callback_name"] = "on_message"
            yield turn
            if rng.random() < (self.leaves_slow if slow else self.leaves):
                return

    def write(self, directory: Path) -> int:
        """Write the records as processes do, one file a process and day; return how many."""
        return write(self.records(), directory)


def write(records: Iterator[Record] | list[Record], directory: Path) -> int:
    """Write records as processes do, one file a process and day; return how many."""
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    files: dict[str, IO[str]] = {}
    encode = json.JSONEncoder(separators=(",", ":")).encode
    with ExitStack() as stack:
        for record in records:
            count += 1
            name = f"chainlit-{record['time'][:10]}-{record['service_instance_id']}.jsonl"
            if (file := files.get(name)) is None:
                file = stack.enter_context((directory / name).open("a", encoding="utf-8"))
                files[name] = file
            file.write(encode(record) + "\n")
    return count


def _used(rng: random.Random) -> Record:
    """Return what a turn used of models: of the one the price is known, of another it is not."""
    models: list[Record] = []
    for name, price in MODELS:
        if rng.random() < 0.5:
            continue
        calls = rng.randrange(1, 4)
        model: Record = {"name": name, "inferences": calls, "uncounted": 0, "unpriced": 0}
        if rng.random() < 0.1:
            model["uncounted"] = calls
        else:
            model["input_tokens"] = rng.randrange(10, 9000)
            model["output_tokens"] = rng.randrange(1, 900)
            if price is None:
                model["unpriced"] = calls
            else:
                tokens = model["input_tokens"] + 4 * model["output_tokens"]
                model["cost"] = round(price * tokens, 12)
        models.append(model)
    if not models:
        return {}
    names = {name for model in models for name in model} - {"name"}
    sums = {name: sum(model.get(name, 0) for model in models) for name in sorted(names)}
    return {
        "chainlit_turn_models": models,
        **{f"chainlit_turn_{name}": value for name, value in sums.items()},
    }


def rfc3339(time: datetime) -> str:
    """Return a time as records have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
