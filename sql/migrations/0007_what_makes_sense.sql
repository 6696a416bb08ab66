-- What makes no sense is refused, because in a log nothing can be mended afterwards. The same rules, with words for people, are in
-- journal/constraints.py. Not valid: what stands in the log already stays there, and is shown as it is.
--
-- PostgreSQL parses the constraints of a table anew for each statement, by their length: hence few operators, and ranges and arrays.

alter table celery_journal.event
    add constraint event_has_a_stream
        check (octet_length(stream) <@ '[1,2500]'::int4range) not valid,
    add constraint event_has_a_kind
        check (kind <> '') not valid,
    -- What an event_id and the clocks of all languages can hold; no infinity.
    add constraint event_is_of_our_years
        check (occurred_at <@ '[1970-01-01 00:00:00+00,10000-01-01 00:00:00+00)'::tstzrange) not valid,
    add constraint event_moments_have_four_digits
        check (eta <@ '[0001-01-01 00:00:00+00,10000-01-01 00:00:00+00)'::tstzrange
           and expires <@ '[0001-01-01 00:00:00+00,10000-01-01 00:00:00+00)'::tstzrange) not valid,
    add constraint event_schema_version_counts_from_one
        check (schema_version > 0) not valid,
    add constraint event_group_index_counts_from_zero
        check (group_index >= 0) not valid,
    add constraint event_pid_is_of_a_process
        check (pid > 0) not valid,
    -- NaN is above infinity here.
    add constraint event_time_limit_is_a_duration
        check (time_limit >= 0 and time_limit < 'infinity') not valid,
    add constraint event_members_are_a_list
        check (array_ndims(members) = 1 and array_position(members, null) is null) not valid,
    add constraint event_part_names_its_member
        check (kind <> 'chord-part-returned' or task_id is not null) not valid,
    -- Each of Celery's own states is that of one kind. A custom state is none of them, and kinds that have no state say what they like.
    add constraint event_state_fits_its_kind
        check (kind <> all ('{task-sent,task-received,task-started,task-retried,task-rejected,task-revoked,task-failed,task-succeeded,task-progress,task-ignored}')
            or coalesce(case when kind = any ('{task-progress,task-ignored}')
                             then state <> all ('{RECEIVED,STARTED,RETRY,REJECTED,REVOKED,FAILURE,SUCCESS}')
                             else kind || state = any ('{task-sentPENDING,task-receivedRECEIVED,task-startedSTARTED,task-retriedRETRY,task-rejectedREJECTED,task-revokedREVOKED,task-failedFAILURE,task-succeededSUCCESS}')
                        end, false)) not valid;
