-- JSON: component to image name to platform to the digests of the image's manifest and config.
ALTER TABLE apps ADD COLUMN images TEXT NOT NULL DEFAULT '{}';
