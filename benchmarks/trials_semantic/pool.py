"""pool of distorted regions; python pool.py RANK"""
import sys, time, json, hashlib
import numpy as np, torch, cv2, piq
from pathlib import Path
torch.set_num_threads(1); cv2.setNumThreads(1)
from dataclasses import replace
from grepq_metric.training.recipe import RECIPES
from grepq_metric.training.distortions import DISTORTIONS, distort
from grepq_metric.training.similarity import pairwise_fsim
from grepq_metric.images import read_image
R=320; D=Path('/work/shared/data')
rank=int(sys.argv[1]); 
wild=replace(RECIPES['wild'],types_per_content=2,levels_per_type=2,region=R)
cams=('phone_camera','night_camera','digital_zoom')
allr=replace(wild,types=tuple(DISTORTIONS)+cams*4)
photos=[(p,'clean') for p in sorted((D/'photos').glob('*'))]+[(p,'web') for p in sorted((D/'biq2021_unlabelled').rglob('*.jpg'))[:700]]
out=Path(f'/root/exp/pool{rank}'); out.mkdir(exist_ok=True)
meta=[];imgs=[]
def fr(x,ref):
    r={}
    c=ref.expand_as(x)
    r['vsi']=piq.vsi(x,c,reduction='none',data_range=1.).tolist()
    r['gmsd']=piq.gmsd(x,c,reduction='none',data_range=1.).tolist()
    r['mdsi']=piq.mdsi(x,c,reduction='none',data_range=1.).tolist()
    r['haar']=piq.haarpsi(x,c,reduction='none',data_range=1.).tolist()
    r['dss']=piq.dss(x,c,reduction='none',data_range=1.).tolist()
    return r
t0=time.time()
mine=photos[rank::2]
for k,(p,kind) in enumerate(mine):
    im=(read_image(p)*255).round().byte().permute(1,2,0).numpy()
    if min(im.shape[:2])<R: continue
    seed=int(hashlib.sha256(p.name.encode()).hexdigest()[:12],16)
    rng=np.random.default_rng(seed); t,l=(rng.integers(s-R+1) for s in im.shape[:2])
    im=np.ascontiguousarray(im[t:t+R,l:l+R])
    chains=[]
    if kind=='clean': chains+=[('wild',c) for c in wild.distortions_of(seed)]
    chains+=[('all',c) for c in allr.distortions_of(seed+1)]
    vs=[im]+[distort(im,c,seed) for _,c in chains]
    x=torch.from_numpy(np.stack(vs)).permute(0,3,1,2).float()/255
    with torch.inference_mode():
        f=fr(x[1:],x[:1])
    for i,v in enumerate(vs):
        meta.append(dict(photo=p.name,kind=kind,src='clean' if i==0 else chains[i-1][0],chain=[] if i==0 else chains[i-1][1],**({} if i==0 else {a:b[i-1] for a,b in f.items()})))
        imgs.append(v)
    if k%50==0: print(k,len(mine),time.time()-t0,flush=True)
np.save(out/'x.npy',np.stack(imgs)); json.dump(meta,open(out/'meta.json','w')); print('done',len(meta),time.time()-t0)
