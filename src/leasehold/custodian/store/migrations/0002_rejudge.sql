-- `attest` is what the instance showed last, so that it can be judged again when vendors or operators
-- change their minds (N-10); empty for instances of an older release. `refusal` is why it was refused then.
ALTER TABLE instances ADD COLUMN attest BLOB NOT NULL DEFAULT x'';
ALTER TABLE instances ADD COLUMN refusal TEXT NOT NULL DEFAULT '';
