"""The mistakes: each is one that somebody could make, in the code that the promise rests on."""

from __future__ import annotations

from typing import Final

from tools.planted.hook import Mistake

_ASKS: Final = "leasehold.custodian.ledger.asks"
_LEASES: Final = "leasehold.custodian.ledger.leases"
_REPORTS: Final = "leasehold.custodian.ledger.reports"
_STOPS: Final = "leasehold.custodian.ledger.stops"
_EPOCH: Final = "leasehold.custodian.ledger.epoch"
_ACCOUNTS: Final = "leasehold.custodian.ledger.accounts"
_HANDS: Final = "leasehold.custodian.ledger.hands"
_OPERATORS: Final = "leasehold.custodian.ledger.operators"
_AUDIT: Final = "leasehold.custodian.ledger.audit"
_SERVICE: Final = "leasehold.custodian.service"
_METER: Final = "leasehold.core.meter"
_ARITHMETIC: Final = "leasehold.core.accounts"
_WORK: Final = "leasehold.enclave.work"
_LINK: Final = "leasehold.enclave.link"
_BOOT: Final = "leasehold.enclave.boot"
_SAID: Final = "leasehold.enclave.reports"
_REPLICAS: Final = "leasehold.custodian.replicas"
_POSTGRES: Final = "leasehold.custodian.store.postgres"
_SQLITE: Final = "leasehold.custodian.store.sqlite"
_GROUP: Final = "leasehold.custodian.store.group"
_SITTING: Final = "leasehold.custodian.ledger.sitting"

_NOTICES: Final = "leasehold.custodian.ledger.notices"

_T_NOTICES: Final = "tests/custodian/ledger/test_notices.py"
_T_DRAIN: Final = "tests/scenarios/test_notice_and_drain.py"
_T_ASKS: Final = "tests/custodian/ledger/test_asks.py"
_T_REPORTS: Final = "tests/custodian/ledger/test_reports.py"
_T_HANDS: Final = "tests/custodian/ledger/test_hands.py"
_T_FOUND: Final = "tests/simulation/test_found.py"
_T_METER: Final = "tests/core/test_meter.py"

_ALL: Final = (
    # What is debited -----------------------------------------------------------------------------
    Mistake(
        "grant-without-debit",
        _ASKS,
        "        path.lease(decision)\n",
        "",
    ),
    Mistake(
        "cap-not-debited",
        _ACCOUNTS,
        "for number, added in steps.items() if any(added)]",
        "for number, added in list(steps.items())[len(steps) > 1:] if any(added)]",
    ),
    Mistake(
        "key-cap-ignored",
        _SITTING,
        "paths[pair] = nodes if row[6] is not None else nodes[:2]",
        "paths[pair] = nodes[:2]",
    ),
    Mistake(
        "outstanding-unbounded",
        _ARITHMETIC,
        "room = min(available, Units(policy.outstanding_max - outstanding))",
        "room = available",
    ),
    Mistake(
        "outstanding-is-available",
        _ARITHMETIC,
        "return Units(self.granted - self.outstanding - self.settled - self.written_off)",
        "return Units(self.granted - self.settled - self.written_off)",
        test=f"{_T_ASKS}::test_the_end_of_the_budget",
    ),
    Mistake(
        "written-off-is-available",
        _ARITHMETIC,
        "return Units(self.granted - self.outstanding - self.settled - self.written_off)",
        "return Units(self.granted - self.outstanding - self.settled)",
    ),
    Mistake(
        "batch-reads-old-answers",
        _SITTING,
        "        self.given[instance, sequence] = (request, answer)\n        self._remembered",
        "        self._remembered",
        test="tests/custodian/ledger/test_together.py::test_a_doubled_ask_in_one_batch_is_one_grant",
    ),
    Mistake(
        "batch-forgets-its-leases",
        _SITTING,
        "        self.leases[pair] = self._changed[held.number] = held\n",
        "        self._changed[held.number] = held\n",
        test="tests/custodian/ledger/test_together.py::test_a_lease_grows_within_a_batch",
    ),
    Mistake(
        "answer-forgotten",
        _ASKS,
        "        sitting.remember(asker.id, ask.sequence, request, to_json(answer))\n",
        "",
        test=f"{_T_ASKS}::test_the_same_ask_gets_the_same_answer_and_moves_nothing",
    ),
    Mistake(
        "sequence-reused-unseen",
        _ASKS,
        "if is_equal(given[0], request):",
        "if given[0]:",
        test=f"{_T_ASKS}::test_the_same_sequence_with_other_contents_is_a_conflict_and_an_alarm",
    ),
    # What settles --------------------------------------------------------------------------------
    Mistake(
        "settled-twice",
        _ASKS,
        "settled = Units(max(0, min(ask.spent, held.granted) - held.settled))",
        "settled = Units(min(ask.spent, held.granted))",
    ),
    Mistake(
        "settled-twice-by-heartbeat",
        _LEASES,
        "units = Units(max(0, min(spent, lease.granted) - lease.settled))\n    if units:",
        "units = Units(min(spent, lease.granted))\n    if units:",
    ),
    Mistake(
        "settled-unlogged",
        _REPORTS,
        "    if settled:\n        audit.append(",
        "    if len(settled) > 1:\n        audit.append(",
    ),
    Mistake(
        "counter-of-another-lease",
        _ASKS,
        "if held is None or ask.spent <= held.claimed or ask.lease != held.id:",
        "if held is None or ask.spent <= held.claimed:",
        test=f"{_T_ASKS}::test_a_counter_for_another_lease_settles_nothing",
    ),
    Mistake(
        "counter-of-another-instance",
        _REPORTS,
        "if lease is not None and lease.instance == instance:",
        "if lease is not None:",
    ),
    Mistake(
        "claim-not-clamped",
        _ASKS,
        "settled = Units(max(0, min(ask.spent, held.granted) - held.settled))",
        "settled = Units(max(0, ask.spent - held.settled))",
        test=f"{_T_ASKS}::test_a_claim_above_the_grant_is_clamped_and_an_alarm",
    ),
    # How leases end ------------------------------------------------------------------------------
    Mistake(
        "write-off-returns",
        _LEASES,
        "lambda account: account.write_off(units))",
        "lambda account: account.release(units))",
    ),
    Mistake(
        "close-after-write-off",
        _REPORTS,
        'if lease.state == "open":\n        _check_claim',
        'if lease.state != "closed":\n        _check_claim',
    ),
    Mistake(
        "close-twice",
        _REPORTS,
        'if lease.state == "open":\n        _check_claim',
        'if lease.state != "written_off":\n        _check_claim',
    ),
    Mistake(
        "close-undoes-reports",
        _LEASES,
        "final = Units(max(lease.settled, min(spent, lease.granted)))",
        "final = Units(min(spent, lease.granted))",
        test=f"{_T_REPORTS}::test_a_final_count_never_undoes_a_reported_one",
    ),
    Mistake(
        "close-returns-all",
        _LEASES,
        "final = Units(max(lease.settled, min(spent, lease.granted)))",
        "final = lease.settled",
    ),
    Mistake(
        "close-of-a-stranger",
        _REPORTS,
        "if lease is None or lease.instance != instance:",
        "if lease is None:",
        test=f"{_T_REPORTS}::test_only_its_own_instance_closes_a_lease",
    ),
    Mistake(
        "proof-returns-unnamed",
        _REPORTS,
        "        if spent is None:\n            leases.write_off(tx, now=now, actor=actor, lease=lease)",
        "        if spent is None:\n            leases.close("
        "tx, now=now, actor=actor, lease=lease, spent=lease.settled, proof=proof)",
        test=f"{_T_REPORTS}::test_a_proof_of_stop_closes_what_it_names_and_burns_the_rest",
    ),
    # Stops ---------------------------------------------------------------------------------------
    Mistake(
        "stop-not-asked",
        _ASKS,
        "    if ended or stopped == 0:\n",
        "    if ended:\n",
    ),
    Mistake(
        "who-is-stopping-is-not-told",
        _STOPS,
        "AND i.state IN ('live', 'stopping') ORDER BY i.id",
        "AND i.state = 'live' ORDER BY i.id",
        test=f"{_T_FOUND}::test_who_has_not_stopped_yet_is_told_of_every_stop",
    ),
    Mistake(
        "stop-covers-nobody", _STOPS, "for instance in covered:", "for instance in covered[:0]:"
    ),
    Mistake(
        "stop-not-stored",
        _SERVICE,
        "told = await self.change(order)",
        "told = await self.look(order)",
    ),
    Mistake(
        "stop-not-repeated",
        _SERVICE,
        "stops.unheard(tx, instance=instance) if beats else ()",
        "()",
        test=f"{_T_FOUND}::test_a_stop_whose_commit_was_reported_as_failed_is_obeyed_all_the_same",
    ),
    Mistake(
        "stop-forgets-doubt",
        _STOPS,
        "WHERE e.state = 'written_off' AND i.state <> 'stopped'",
        "WHERE e.state = 'closed' AND i.state <> 'stopped'",
        test="tests/scenarios/test_bad_luck.py"
        "::test_a_stop_is_not_complete_while_unproved_write_offs_could_still_be_served",
    ),
    Mistake(
        "old-answer-after-stop",
        _ASKS,
        "if refusal is None or isinstance(stored, LeaseRefused):",
        "if stored is not None:",
        test=f"{_T_ASKS}::test_no_lease_under_a_stop",
    ),
    Mistake(
        "stop-readmits",
        "leasehold.custodian.ledger.instances",
        "if tx.execute(_ENDED, (instance, instance)):",
        'if tx.execute(_ENDED, (instance, "")) and stops:',
        test="tests/custodian/ledger/test_stops.py"
        "::test_an_instance_that_was_stopped_never_serves_again",
    ),
    # Notice and drain ----------------------------------------------------------------------------
    Mistake("notice-never-begins", _NOTICES, "for stop in due:", "for stop in due[:0]:"),
    Mistake(
        "notice-begins-early",
        _NOTICES,
        "phase = 'notice' AND lifted IS NULL AND begins <= ?",
        "phase = 'notice' AND lifted IS NULL AND at <= ?",
    ),
    Mistake(
        "notice-called-off-begins",
        _NOTICES,
        "phase = 'notice' AND lifted IS NULL AND begins <= ?",
        "phase = 'notice' AND begins <= ?",
    ),
    Mistake(
        "notice-begins-without-covering",
        _NOTICES,
        """        if stop.phase == "notice":
            detail""",
        """        if stop.phase == "drain":
            detail""",
    ),
    Mistake(
        "notice-not-told-again",
        "leasehold.custodian.decide",
        "sequence, now, head, announce(notices.coming(tx, instance=instance), keys, now)",
        "sequence, now, head",
        test=f"{_T_DRAIN}::test_a_notice_that_was_lost_on_the_way_comes_with_the_next_heartbeat",
    ),
    Mistake(
        "notice-outlived-by-lease",
        _ASKS,
        "ttl = min(ttl, Duration(self.stopped - self.now))  # L-14",
        "ttl = min(ttl, Duration(1 << 40))",
    ),
    Mistake(
        "notice-grants-when-due",
        _SITTING,
        'ends if phase == "notice" and begins > now else Instant(0)',
        'ends if phase == "notice" and ends > now else Instant(0)',
        test=f"{_T_NOTICES}::test_a_stop_that_is_due_refuses_before_anybody_has_begun_it",
    ),
    Mistake(
        "drain-grants",
        _SITTING,
        'ends if phase == "notice" and begins > now else Instant(0)',
        'ends if phase != "full" and ends > now else Instant(0)',
        test=f"{_T_NOTICES}::test_the_ledger_refuses_a_drain_in_two_places",
    ),
    Mistake(
        "drain-covers-nobody",
        _STOPS,
        'covered = [] if phase == "notice" else cover(',
        'covered = [] if phase != "full" else cover(',
    ),
    Mistake(
        "drain-extended-by-a-repeat",
        _STOPS,
        "begins, ends = min(known.begins, begins), min(known.ends, ends)",
        "begins, ends = min(known.begins, begins), max(known.ends, ends)",
    ),
    Mistake(
        "stop-put-off-by-a-repeat",
        _STOPS,
        "phase = max(known.phase, phase, key=PHASES.index)",
        "phase = wanted.phase",
    ),
    Mistake(
        "drain-longer-than-it-was",
        _NOTICES,
        "left = min(stop.ends - now, stop.ends - stop.begins)",
        "left = stop.ends - now",
        test=f"{_T_DRAIN}::test_never_is_more_left_of_a_drain_than_it_was_long",
    ),
    Mistake(
        "drain-admits",
        _METER,
        '''until `until`."""
        self.over = self.over or why''',
        '''until `until`."""''',
    ),
    Mistake(
        "drain-has-no-end",
        _METER,
        "purse.expires = purse.renew_at = min(purse.expires, until)",
        "purse.renew_at = min(purse.expires, until)",
        test=f"{_T_METER}::test_a_drain_admits_nobody_and_lets_tickets_spend_what_is_leased",
    ),
    Mistake(
        "drain-takes-time-from-a-late-grant",
        _METER,
        "if asked_at is not None and self.over is None:",
        "if asked_at is not None:",
        test=f"{_T_METER}::test_a_drain_renews_nothing_and_takes_no_time_from_a_late_grant",
    ),
    Mistake(
        "announcement-stops",
        _LINK,
        'if reason is None or reason.mode == "notice":',
        "if reason is None:",
        test=f"{_T_DRAIN}::test_an_announcement_stops_nobody_even_as_an_order",
    ),
    # Restores ------------------------------------------------------------------------------------
    Mistake(
        "restore-keeps-epoch",
        _EPOCH,
        "epoch = max(current(tx) + 1, now // SECOND, least)",
        "epoch = current(tx)",
    ),
    Mistake(
        "restore-counts-on-clock",
        _EPOCH,
        "epoch = max(current(tx) + 1, now // SECOND, least)",
        "epoch = max(current(tx) + 1, now // SECOND)",
        test="tests/simulation/test_found.py"
        "::test_a_restore_under_a_wrong_clock_is_still_a_newer_epoch",
    ),
    Mistake(
        "restore-keeps-budgets",
        _EPOCH,
        "        _take_back(tx, number,",
        "        (lambda *_a, **_k: None)(tx, number,",
    ),
    Mistake(
        "restore-keeps-leases",
        _EPOCH,
        "for lease in leases.list_open(tx):",
        "for lease in leases.list_open(tx)[:0]:",
    ),
    Mistake(
        "restore-stops-nothing",
        _EPOCH,
        '    stops.order(tx, now=now, operator=operator, scope="all", target="", reason=reason)\n',
        "",
    ),
    Mistake(
        "epoch-not-compared",
        "leasehold.custodian.ledger.instances",
        'if state != "live" or not current or evidence_expires <= now:',
        'if state != "live" or evidence_expires <= now:',
        test="tests/custodian/ledger/test_instances.py::test_who_may_speak",
    ),
    Mistake(
        "evidence-never-expires",
        "leasehold.custodian.ledger.instances",
        'if state != "live" or not current or evidence_expires <= now:',
        'if state != "live" or not current:',
        test="tests/custodian/ledger/test_instances.py::test_who_may_speak",
    ),
    # The log -------------------------------------------------------------------------------------
    Mistake(
        "leaf-misread",
        _AUDIT,
        "trees.push(frontier, merkle.leaf_hash(leaf))\n    rows",
        "trees.push(frontier, merkle.leaf_hash(leaf[:-1]))\n    rows",
    ),
    Mistake(
        "grant-misreported",
        _ASKS,
        "settled=settled,\n            units=decision,",
        "settled=Units(0),\n            units=decision,",
    ),
    # The meter -----------------------------------------------------------------------------------
    Mistake(
        "made-is-reported-as-served",
        _METER,
        "Units(p.spent - p.unsent)) for p in self._purses",
        "Units(p.spent)) for p in self._purses",
        test=f"{_T_METER}::test_what_has_not_left_is_not_reported_as_spent",
    ),
    Mistake(
        "grants-add-up",
        _METER,
        "purse.granted = max(purse.granted, grant.granted)",
        "purse.granted = Units(purse.granted + grant.granted)",
    ),
    Mistake(
        "held-not-counted",
        _METER,
        "return Units(self.granted - self.spent - self.held)",
        "return Units(self.granted - self.spent)",
    ),
    Mistake(
        "expiry-not-checked",
        _METER,
        "        if now >= purse.expires:\n            raise self._lapse",
        "        if now < 0:\n            raise self._lapse",
    ),
    Mistake(
        "time-from-the-answer",
        _METER,
        "purse.expires = max(purse.expires, after(asked_at, grant.ttl))",
        "purse.expires = max(purse.expires, after(now, grant.ttl))",
    ),
    Mistake(
        "time-from-any-answer",
        _METER,
        "        if asked_at is not None and self.over is None:\n            purse.expires",
        "        asked_at = now if asked_at is None else asked_at\n        if True:\n"
        "            purse.expires",
    ),
    Mistake(
        "ended-purse-spends",
        _METER,
        "        if purse.ended is not None:\n            raise purse.ended.again()\n        if now",
        "        if now",
    ),
    Mistake(
        "consumer-stop-ignored",
        _METER,
        "for purse in [p for p in self._purses.values() if p.consumer == consumer]:",
        "for purse in [p for p in self._purses.values() if p.consumer == consumer and not p.held]:",
    ),
    Mistake(
        "dropped-lease-is-stray",
        _METER,
        "return Credit.DROPPED\n            self._newest",
        "return Credit.STRAY\n            self._newest",
    ),
    Mistake(
        "old-epoch-spends",
        _METER,
        "for purse in [p for p in self._purses.values() if _number(p.lease)[0] < epoch]:",
        "for purse in [p for p in self._purses.values() if _number(p.lease)[0] > epoch]:",
        test=f"{_T_METER}::test_leases_of_an_older_epoch_are_void",
    ),
    Mistake(
        "settle-forgets-spending",
        _METER,
        "            ticket.purse.tickets -= 1",
        "            ticket.purse.tickets -= 1\n"
        "            ticket.purse.spent = Units(ticket.purse.spent - ticket.spent)",
    ),
    Mistake(
        "late-grant-after-stop",
        _METER,
        "stopped_at is not None and asked_at <= stopped_at",
        "stopped_at is not None and asked_at < 0",
        test=f"{_T_METER}::test_what_was_asked_for_before_the_stop_is_no_grant_after_it",
    ),
    # Several hands -------------------------------------------------------------------------------
    Mistake(
        "hand-counts-twice",
        _HANDS,
        "is_done = len(hands) >= needed",
        "is_done = len(hands) + again >= needed",
        test=f"{_T_HANDS}::test_a_hand_counts_once",
    ),
    Mistake(
        "dismissed-hand-counts",
        _HANDS,
        "if name in self.roles and Right.CHANGE in RIGHTS[self.roles[name]]",
        "if name",
        test=f"{_T_HANDS}::test_the_hand_of_one_who_lost_the_role_does_not_count",
    ),
    Mistake(
        "digest-not-compared",
        _HANDS,
        "if not is_equal(one.digest, digest):",
        "if not digest:",
        test=f"{_T_HANDS}::test_another_digest_is_refused",
    ),
    Mistake(
        "hands-only-at-the-door",
        _OPERATORS,
        "if gate in operator.gates:",
        "if not operator.name:",
        test=f"{_T_HANDS}::test_the_ledger_itself_refuses_one_hand",
    ),
    Mistake(
        "proposal-outlives-restore",
        _EPOCH,
        "    hands.void_all(tx, now=now, actor=operator.name, reason=reason)\n",
        "",
        test=f"{_T_HANDS}::test_a_restore_ends_all_that_was_pending",
    ),
    # Serving -------------------------------------------------------------------------------------
    Mistake(
        "debit-after-serve",
        _WORK,
        """                self._pay(run, one, every)
""",
        """                yield made
                paid = []
                self._pay(run, one, every)
""",
    ),
    Mistake(
        "input-not-charged",
        _WORK,
        "self.meter.spend(run.ticket, entry, now=self.clock.monotonic())",
        "self.meter.spend(run.ticket, Units(0), now=self.clock.monotonic())",
    ),
    Mistake(
        "embedding-not-charged",
        _WORK,
        """self.meter.spend(run.ticket, units, now=self.clock.monotonic())
            run.input_tokens = tokens
            yield""",
        """run.input_tokens = tokens
            yield""",
    ),
    Mistake(
        "every-other-token-free",
        _WORK,
        "self.meter.spend(run.ticket, Units(one * tokens), now=self.clock.monotonic())",
        "self.meter.spend(run.ticket, Units(one * ((run.output_tokens + 1) % 2)),"
        " now=self.clock.monotonic())",
    ),
    Mistake(
        "answer-outlives-lease",
        _WORK,
        "            self._check_live(run)  # the wait may have outlived the lease\n",
        "",
    ),
    # The line ------------------------------------------------------------------------------------
    Mistake(
        "close-says-less",
        _SAID,
        "report = CloseReport(self.instance, lease, spent, receipt_head)",
        "report = CloseReport(self.instance, lease, Units(spent * 3 // 4), receipt_head)",
    ),
    Mistake(
        "dead-man-sleeps",
        _LINK,
        "return now - self.last_contact >= dead_man or now >= self._proven_until",
        "return now - self.last_contact >= dead_man and now >= self._proven_until",
        test="tests/scenarios/test_bad_luck.py::test_the_dead_mans_switch_ends_service_and_wipes",
    ),
    # Replicas ------------------------------------------------------------------------------------
    Mistake(
        "stop-elsewhere-not-pushed",
        _REPLICAS,
        "custodian.tell_stop(await read(telling))",
        "await read(telling)",
    ),
    Mistake(
        "stops-wait-for-other-news",
        _REPLICAS,
        "(stops if not news or news.startswith(STOP) else others).put_nowait(news)",
        "others.put_nowait(news)",
        test="tests/custodian/test_replicas.py"
        "::test_a_stop_reaches_an_enclave_of_a_replica_whose_reads_hang",
    ),
    Mistake(
        "stop-not-told-to-replicas",
        _SERVICE,
        '            tx.tell(f"{STOP} {stop.id}")\n            return notices.telling',
        "            return notices.telling",
    ),
    Mistake(
        "gap-not-looked-at",
        _REPLICAS,
        "orders_for(tx, name)) for name in names]",
        "orders_for(tx, name)) for name in names[:0]]",
        test=f"{_T_FOUND}::test_what_was_missed_in_a_gap_is_passed_on_as_soon_as_it_is_over",
    ),
    Mistake(
        "memo-outlives-its-commit",
        _POSTGRES,
        "            tx = PgTx(connection, self._replica)\n",
        "            tx = PgTx(connection, self._replica)\n"
        '            tx.memo = self.__dict__.setdefault("memo", {})\n',
        test="tests/custodian/test_replicas.py::test_callers_at_both_never_overspend_one_cap",
    ),
    # A browser at the console --------------------------------------------------------------------
    Mistake(
        "foreign-page-acts",
        "leasehold.custodian.visitors",
        "if site is not None and site not in allowed:",
        'if site is not None and site == "cross-origin":',
        test="tests/custodian/test_api.py"
        "::test_another_sites_page_gets_nothing_by_an_operators_browser",
    ),
    Mistake(
        "words-become-markup",
        "leasehold.custodian.console.render",
        "autoescape=True",
        "autoescape=False",
        test="tests/custodian/console/test_app.py::test_words_that_are_markup_stay_words",
    ),
    # The store -----------------------------------------------------------------------------------
    Mistake(
        "acknowledged-before-commit",
        _SQLITE,
        '            connection.execute("COMMIT")\n',
        "            import leasehold.custodian.store.group as group\n"
        "            group._deliver(jobs, outcomes)\n"
        '            connection.execute("COMMIT")\n',
        test="tests/custodian/store/test_sqlite.py::test_a_full_disk_refuses_the_group_and_heals",
    ),
    Mistake(
        "act-not-undone",
        _GROUP,
        '            control("ROLLBACK TO SAVEPOINT act")\n',
        "",
        test="tests/custodian/store/test_stores.py::test_an_error_undoes_its_act_and_nothing_else",
    ),
)
MISTAKES: Final = {mistake.name: mistake for mistake in _ALL}
