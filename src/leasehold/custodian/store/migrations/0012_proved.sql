-- When the proof that an instance stopped (docs/spec/session.md, N-7) became durable; NULL where there is none, and for
-- proofs of an older release.
ALTER TABLE instances ADD COLUMN proved INTEGER;
